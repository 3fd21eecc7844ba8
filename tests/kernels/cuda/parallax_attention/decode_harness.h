// Runs attention problems through the GPU's decode op as one batch, over a shuffled paged cache
// whose unused slots, pages and block table entries are poison.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_HARNESS_H_
#define PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_HARNESS_H_

#include <cuda_bf16.h>

#include <cstddef>
#include <optional>
#include <random>
#include <vector>

#include "kernels/cuda/parallax_decode.h"
#include "tests/kernels/cuda/row_ops/device_array.h"
#include "tests/kernels/reference/attention_reference.h"

namespace parallax::kernels::cuda {

struct DecodeShape {
  int query_heads = 8;
  int kv_heads = 8;
  int head_dim = 128;
  int window = 0;
  bool probe = true;
  float query_deviation = 1.0f;
  float probe_deviation = 1.0f;
  float key_mean = 0.0f;
};

// Random values, rounded to bfloat16: the oracle reads what the kernel reads.
reference::AttentionProblem RandomProblem(const DecodeShape& shape, int query_rows, int context,
                                          std::mt19937& rng);

// A batch on the device. All problems share heads, head_dim, window and probe; a context of 0
// makes a sequence without keys.
class DecodeBatch {
 public:
  DecodeBatch(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng);

  // Runs the op and returns each problem's out. `stream` null: the default stream.
  std::vector<std::vector<float>> Run(cudaStream_t stream = nullptr);

  // The two halves of Run().
  void Enqueue(cudaStream_t stream);
  std::vector<std::vector<float>> ReadOut() const;

  // Shortens sequences in device memory, as a replayed graph would see it.
  void SetContexts(const std::vector<int>& contexts);

  const ParallaxDecodeParams& params() const { return params_; }

 private:
  void PackRows(const std::vector<reference::AttentionProblem>& problems);
  void FillCache(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng);

  DeviceProperties device_;
  ParallaxDecodeParams params_;
  std::vector<int> query_start_ = {0};
  int64_t row_size_ = 0;
  std::optional<DeviceArray<__nv_bfloat16>> q_, r_, out_, cache_;
  std::optional<DeviceArray<int>> query_start_device_, contexts_, block_tables_;
  std::optional<DeviceArray<std::byte>> workspace_;
};

// |out - reference| / |reference| over the whole of it; NaN counts as infinite.
double RelativeError(const std::vector<float>& out, const std::vector<double>& reference);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_HARNESS_H_
