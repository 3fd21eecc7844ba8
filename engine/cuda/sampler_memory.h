// What sampling on the GPU keeps from step to step: each slot's lists, its token counts and the
// token it sampled last, and the pinned memory through which they are written.
//
// Thread safety: one thread. Errors: KernelError.
#ifndef PARALLAX_ENGINE_CUDA_SAMPLER_MEMORY_H_
#define PARALLAX_ENGINE_CUDA_SAMPLER_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/cuda/slot_table.h"
#include "engine/runner/forward_batch.h"
#include "engine/runner/token_counter.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/execution.h"
#include "kernels/cuda/sampling.h"

namespace parallax {

struct SamplerMemoryOptions {
  int32_t max_num_seqs = 0;
  int32_t max_context_tokens = 0;
  int64_t max_rows = 0;  // of one Sample call
  int64_t vocab_size = 0;
  int64_t token_limit = 0;
  std::vector<uint32_t> token_mask;
  std::vector<int32_t> eos_token_ids;
};

class SamplerMemory {
 public:
  SamplerMemory(const SamplerMemoryOptions& options, const kernels::cuda::OwnedStream& stream);

  static int64_t BytesFor(const SamplerMemoryOptions& options);

  /// Enqueues the writes of an entering sequence's lists; its state for the host.
  /// `flight` numbers the step in flight, whose pinned memory is free again.
  void BeginStep(int flight);
  SlotState Attach(const SlotAttach& attach);

  std::span<const int32_t> slot_tokens() const;

  /// Everything but the rows, the logits and the results.
  kernels::cuda::SampleParams Params() const;

 private:
  static constexpr int kFlights = 2;

  void Write(void* device, const void* host, size_t bytes);

  const SamplerMemoryOptions options_;
  const kernels::cuda::OwnedStream& stream_;
  const SlotCapacities capacities_;
  kernels::cuda::DeviceBuffer logit_bias_;   // LogitBias [slots, capacity]
  kernels::cuda::DeviceBuffer banned_ids_;   // int32 [slots, capacity]
  kernels::cuda::DeviceBuffer token_mask_;   // uint32
  kernels::cuda::DeviceBuffer counts_;       // TokenCount [slots, tokens of a context]
  kernels::cuda::DeviceBuffer count_sizes_;  // int32 [slots]
  kernels::cuda::DeviceBuffer slot_tokens_;  // int32 [slots]
  kernels::cuda::DeviceBuffer workspace_;
  kernels::cuda::PinnedBuffer staging_[kFlights];
  int flight_ = 0;
  size_t staged_ = 0;  // bytes of staging_[flight_] in use
  TokenCounter counter_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_SAMPLER_MEMORY_H_
