// The copying warp of TensorLinear.
//
// Thread safety: device code, run by one thread.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PRODUCER_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PRODUCER_CUH_

#include <cstdint>

#include "kernels/cuda/linear/tensor_ptx.cuh"
#include "kernels/cuda/linear/tensor_shared.cuh"
#include "kernels/cuda/programmatic_launch.cuh"

namespace parallax::kernels::cuda {

template <int kTokens, bool kGated>
class TensorProducer {
 public:
  using Shared = TensorShared<kTokens>;

  __device__ TensorProducer(const TensorArgs& args, const TensorPart& part, const Shared& shared)
      : args_(args), part_(part), shared_(shared), policy_(EvictFirstPolicy()) {}

  // Fills the ring with weights, and with x once the kernel before this one has written it; then
  // follows the consumers.
  __device__ void Run() {
    const int items = part_.num_tiles * part_.num_steps;
    const int ahead = min(items, args_.stages);
    Item item;
    for (int i = 0; i < ahead; ++i, Advance(item)) CopyWeights(item, i);
    WaitForPrecedingKernel();
    Item behind;
    for (int i = 0; i < ahead; ++i, Advance(behind)) CopyX(behind, i);
    int stage = 0;
    uint32_t parity = 0;
    for (int i = ahead; i < items; ++i, Advance(item)) {
      Wait(shared_.Empty(stage), parity);
      CopyWeights(item, stage);
      CopyX(item, stage);
      if (++stage == args_.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

 private:
  // What one stage holds: a step of a tile, both counted among the CTA's own.
  struct Item {
    int tile = 0;
    int step = 0;
  };

  __device__ void Advance(Item& item) const {
    if (++item.step == part_.num_steps) {
      item.step = 0;
      ++item.tile;
    }
  }

  __device__ bool NeedsX(const Item& item) const { return !args_.keep_x || item.tile == 0; }

  // Also announces what the stage waits for, x included: it may be sent for later.
  __device__ void CopyWeights(const Item& item, int stage) const {
    ArriveExpect(shared_.Full(stage), kTensorWeightBytes + (NeedsX(item) ? Shared::kXBytes : 0));
    const int tile = part_.first_tile + item.tile * part_.tile_step;
    const int input = (part_.first_step + item.step) * kTensorStepInputs;
    if constexpr (kGated) {
      // 64 outputs: 8 groups of 8 gates, each followed by its ups.
      CopyGroupBox(shared_.Weights(stage), args_.weight, input, tile * (kTensorTileRows / 16),
                   shared_.Full(stage), policy_);
    } else {
      CopyBox(shared_.Weights(stage), args_.weight, input, tile * kTensorTileRows,
              shared_.Full(stage), policy_);
    }
  }

  __device__ void CopyX(const Item& item, int stage) const {
    if (!NeedsX(item)) return;
    CopyBox(shared_.X(args_.keep_x ? item.step : stage), args_.x,
            (part_.first_step + item.step) * kTensorStepInputs, 0, shared_.Full(stage));
  }

  const TensorArgs& args_;
  const TensorPart& part_;
  const Shared& shared_;
  const uint64_t policy_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_PRODUCER_CUH_
