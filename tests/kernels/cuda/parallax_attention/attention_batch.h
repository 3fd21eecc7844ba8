// Random attention problems, and a batch of them on the device as the attention ops take it:
// over a shuffled paged cache whose unused slots, pages and block table entries are poison.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_ATTENTION_BATCH_H_
#define PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_ATTENTION_BATCH_H_

#include <cuda_bf16.h>

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/tensor_view.h"
#include "tests/kernels/cuda/row_ops/device_array.h"
#include "tests/kernels/reference/attention_reference.h"

namespace parallax::kernels::cuda {

struct AttentionShape {
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
reference::AttentionProblem RandomProblem(const AttentionShape& shape, int query_rows, int context,
                                          std::mt19937& rng);

// |out - reference| / |reference| over the whole of it; NaN counts as infinite.
double RelativeError(const std::vector<float>& out, const std::vector<double>& reference);

// The same over the outs of all problems together.
double RelativeErrorOfAll(const std::vector<std::vector<float>>& outs,
                          const std::vector<reference::AttentionProblem>& problems);

// The first GPU, and the same as the ops see one that has no kernels of its own.
DeviceProperties TunedDevice();
DeviceProperties PortableDevice();

// What both ops' parameters have in common. All problems share heads, head_dim, window and
// probe; a context of 0 makes a sequence without keys.
class AttentionBatch {
 public:
  AttentionBatch(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng);

  // Sets all of an op's parameters but its workspace.
  template <typename Params>
  void Describe(Params& params) const {
    params.q = View(*q_);
    if (has_probe_) params.r = View(*r_);
    params.out = View(*out_);
    params.cache = cache_view_;
    params.cache.data = cache_->data();
    params.batch = static_cast<int>(query_start_.size()) - 1;
    params.query_start = query_start_device_->data();
    params.context_len = contexts_->data();
    params.block_tables = block_tables_->data();
    params.max_blocks = max_blocks_;
    params.softmax_scale = scale_;
    params.sliding_window = window_;
  }

  // Makes what was not written show as NaN.
  void PoisonOut();

  // Waits for the device and returns each problem's out.
  std::vector<std::vector<float>> ReadOut() const;

  // Changes device memory alone, as a graph's next replay would see it: other lengths, or all of
  // the contents of a batch with as many sequences, as wide block tables and no more of the rest.
  void SetContexts(const std::vector<int>& contexts);
  void TakeContents(const AttentionBatch& other);

 private:
  void PackRows(const std::vector<reference::AttentionProblem>& problems);
  void FillCache(const std::vector<reference::AttentionProblem>& problems, std::mt19937& rng);
  TensorView View(const DeviceArray<__nv_bfloat16>& rows) const;

  int query_heads_;
  int head_dim_;
  bool has_probe_;
  float scale_;
  int window_;
  int64_t max_blocks_ = 0;
  PagedKvCache cache_view_;
  std::vector<int> query_start_ = {0};
  std::optional<DeviceArray<__nv_bfloat16>> q_, r_, out_, cache_;
  std::optional<DeviceArray<int>> query_start_device_, contexts_, block_tables_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_ATTENTION_BATCH_H_
