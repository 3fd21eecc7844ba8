// Samples rows that are described by reference::SamplingRule on the GPU.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_SAMPLING_SAMPLING_HARNESS_H_
#define PARALLAX_TESTS_KERNELS_CUDA_SAMPLING_SAMPLING_HARNESS_H_

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/sampling.h"
#include "tests/kernels/reference/sampling_reference.h"

namespace parallax::kernels::cuda {

struct SampledRow {
  reference::SamplingRule rule;
  uint64_t seed = 0;
  uint32_t position = 0;
  int num_top_logprobs = 0;
  std::vector<uint32_t> allowed_mask;  // empty: the rule's bans go through banned_ids alone
  bool has_slot = true;
};

struct SampledBatch {
  std::vector<SampleResult> results;
  std::vector<int32_t> slot_tokens;                   // kUntouched where none was written
  std::vector<std::vector<TokenCount>> token_counts;  // of each row's slot, afterwards
};

inline constexpr int32_t kUntouched = -7;

// logits[i] belongs to rows[i], or logits[0] to all. Row i has slot i, if any. All rules have the
// same token_limit. `device` is what Sample is told: it chooses the kernel by it.
SampledBatch SampleOnGpu(const std::vector<std::vector<float>>& logits,
                         const std::vector<SampledRow>& rows, const DeviceProperties& device);

std::vector<float> RandomLogits(int vocab, float deviation, std::mt19937& rng);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_SAMPLING_SAMPLING_HARNESS_H_
