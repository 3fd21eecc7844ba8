// Runs attention problems through the GPU's prefill op as one batch, over a shuffled paged cache
// whose unused slots, pages and block table entries are poison.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_HARNESS_H_
#define PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_HARNESS_H_

#include <cuda_bf16.h>

#include <cstddef>
#include <optional>
#include <random>
#include <vector>

#include "kernels/cuda/parallax_prefill.h"
#include "tests/kernels/cuda/row_ops/device_array.h"
#include "tests/kernels/reference/attention_reference.h"

namespace parallax::kernels::cuda {

// A batch on the device. All problems have a probe and share heads, head_dim and window; their
// values are exact in bfloat16.
class PrefillBatch {
 public:
  PrefillBatch(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng);

  // Runs the op and returns each problem's out; what was not written is NaN.
  std::vector<std::vector<float>> Run();

  ParallaxPrefillParams& params() { return params_; }

 private:
  void PackRows(const std::vector<reference::AttentionProblem>& problems);
  void FillCache(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng);

  DeviceProperties device_;
  ParallaxPrefillParams params_;
  std::vector<int> query_start_ = {0};
  int64_t row_size_ = 0;
  std::optional<DeviceArray<__nv_bfloat16>> q_, r_, out_, cache_;
  std::optional<DeviceArray<int>> query_start_device_, contexts_, block_tables_;
  std::optional<DeviceArray<std::byte>> workspace_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_HARNESS_H_
