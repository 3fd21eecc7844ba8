// What a step in flight reads on the device, beside the weights and the cache: its packed block
// (step_layout.h) and its block tables. Each step in flight has inputs of its own, so that they
// travel while the step before them runs.
//
// Thread safety: one thread. Errors: KernelError.
#ifndef PARALLAX_ENGINE_CUDA_STEP_INPUTS_H_
#define PARALLAX_ENGINE_CUDA_STEP_INPUTS_H_

#include <cstddef>
#include <cstdint>

#include "engine/cuda/block_table_mirror.h"
#include "engine/runner/forward_batch.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/execution.h"
#include "kernels/stream.h"

namespace parallax {

struct StepInputSizes {
  size_t block_bytes = 0;
  int max_sequences = 0;
  int max_blocks = 0;  // pages of a sequence

  size_t table_bytes() const { return sizeof(int32_t) * max_sequences * max_blocks; }
  size_t device_bytes() const { return block_bytes + table_bytes(); }
};

class StepInputs {
 public:
  explicit StepInputs(const StepInputSizes& sizes);

  /// Where the step is packed. REQUIRES: the step that was sent last has ended.
  std::byte* staging() const { return staged_block_.data(); }

  /// Sends the first block_bytes of staging(), and what is new in the batch's block tables.
  void Send(const ForwardBatch& batch, size_t block_bytes, const kernels::Stream& stream);
  /// The stream goes on when the inputs have arrived.
  void HoldBack(const kernels::Stream& stream) const { sent_.HoldBack(stream); }
  const kernels::cuda::Event& sent() const { return sent_; }

  const std::byte* block() const { return block_.data(); }
  const int32_t* block_tables() const { return block_tables_.as<const int32_t>(); }

 private:
  kernels::cuda::DeviceBuffer block_;
  kernels::cuda::DeviceBuffer block_tables_;  // [max_sequences, max_blocks]
  kernels::cuda::PinnedBuffer staged_block_;
  kernels::cuda::PinnedBuffer staged_tables_;
  BlockTableMirror mirror_;  // in staged_tables_
  kernels::cuda::Event sent_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_STEP_INPUTS_H_
