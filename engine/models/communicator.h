// Communicator: where the forward pass would talk to other devices.
//
// Tensor parallelism comes later through NCCL. The calls are in place now, so that the forward
// pass does not change shape then; on a single device they do nothing.
//
// Thread safety: as the stream they are enqueued on: one thread at a time.
#ifndef PARALLAX_ENGINE_MODELS_COMMUNICATOR_H_
#define PARALLAX_ENGINE_MODELS_COMMUNICATOR_H_

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax {

class Communicator {
 public:
  virtual ~Communicator() = default;

  /// Ranks that share a model.
  virtual int size() const = 0;

  /// Sums `partial` over all ranks, in place: after a projection whose inputs are sharded.
  virtual void AllReduceSum(const kernels::TensorView& partial, const kernels::Stream& stream) = 0;
};

class SingleDeviceCommunicator final : public Communicator {
 public:
  int size() const override { return 1; }
  void AllReduceSum(const kernels::TensorView& partial, const kernels::Stream& stream) override {}
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_COMMUNICATOR_H_
