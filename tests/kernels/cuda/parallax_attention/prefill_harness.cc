#include "tests/kernels/cuda/parallax_attention/prefill_harness.h"

#include <algorithm>
#include <numeric>

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

constexpr int kStridePadding = 16;  // elements between tokens' rows of q, r and out

int PagesOf(int tokens) { return (tokens + kPageSize - 1) / kPageSize; }

__nv_bfloat16 Poison() { return __ushort_as_bfloat16(0xffff); }

}  // namespace

PrefillBatch::PrefillBatch(const std::vector<AttentionProblem>& problems, std::mt19937& rng)
    : device_(ReadDeviceProperties(0)) {
  const AttentionProblem& first = problems.front();
  row_size_ = int64_t{first.query_heads} * first.head_dim;
  std::vector<int> contexts;
  for (const AttentionProblem& problem : problems) {
    query_start_.push_back(query_start_.back() + problem.query_rows);
    contexts.push_back(problem.context);
    params_.max_blocks = std::max<int64_t>(params_.max_blocks, PagesOf(problem.context) + 1);
  }
  contexts_.emplace(contexts);
  query_start_device_.emplace(query_start_);
  params_.batch = static_cast<int>(problems.size());
  params_.softmax_scale = static_cast<float>(first.scale);
  params_.sliding_window = first.window;
  params_.context_len = contexts_->data();
  params_.query_start = query_start_device_->data();
  PackRows(problems);
  FillCache(problems, rng);
  workspace_.emplace(ParallaxPrefillWorkspaceBytes());
  Require(cudaMemset(workspace_->data(), 0, workspace_->size()));
  params_.workspace = {workspace_->data(), workspace_->size()};
}

void PrefillBatch::PackRows(const std::vector<AttentionProblem>& problems) {
  const AttentionProblem& first = problems.front();
  const int64_t tokens = query_start_.back();
  const int64_t stride = row_size_ + kStridePadding;
  std::vector<__nv_bfloat16> q(tokens * stride, Poison());
  std::vector<__nv_bfloat16> r = q;
  for (size_t i = 0; i < problems.size(); ++i) {
    for (int64_t x = 0; x < problems[i].query_rows * row_size_; ++x) {
      const int64_t at = (query_start_[i] + x / row_size_) * stride + x % row_size_;
      q[at] = __float2bfloat16(problems[i].q[x]);
      r[at] = __float2bfloat16(problems[i].r[x]);
    }
  }
  q_.emplace(q);
  r_.emplace(r);
  out_.emplace(q.size());
  const auto view = [&](__nv_bfloat16* data) {
    TensorView tensor(data, DType::kBFloat16, {tokens, first.query_heads, first.head_dim},
                      {DeviceType::kCuda, 0});
    tensor.strides[0] = stride;
    return tensor;
  };
  params_.q = view(q_->data());
  params_.r = view(r_->data());
  params_.out = view(out_->data());
}

void PrefillBatch::FillCache(const std::vector<AttentionProblem>& problems, std::mt19937& rng) {
  const AttentionProblem& first = problems.front();
  PagedKvCache& cache = params_.cache;
  cache.num_kv_heads = first.kv_heads;
  cache.head_dim = first.head_dim;
  cache.num_pages = 3;  // some that nobody owns; page 0 of them stands in unused table entries
  for (const AttentionProblem& problem : problems) cache.num_pages += PagesOf(problem.context);
  std::vector<int> order(cache.num_pages - 1);
  std::iota(order.begin(), order.end(), 1);
  std::shuffle(order.begin(), order.end(), rng);
  std::vector<int> tables(problems.size() * params_.max_blocks, 0);
  std::vector<__nv_bfloat16> memory(cache.num_pages * cache.page_elements(), Poison());
  size_t next = 0;
  for (size_t i = 0; i < problems.size(); ++i) {
    const AttentionProblem& problem = problems[i];
    const int first_row = problem.context - problem.query_rows;
    const int first_key = problem.window > 0 ? std::max(0, first_row - problem.window + 1) : 0;
    for (int t = first_key; t < problem.context; ++t) {
      int& page = tables[i * params_.max_blocks + t / kPageSize];
      if (page == 0) page = order[next++];
      for (int x = 0; x < problem.kv_heads * problem.head_dim; ++x) {
        const int head = x / problem.head_dim;
        const int offset = KvBlockOffset(t % kPageSize, x % problem.head_dim);
        const size_t from = size_t(t) * problem.kv_heads * problem.head_dim + x;
        memory[cache.k_block_offset(page, head) + offset] = __float2bfloat16(problem.k[from]);
        memory[cache.v_block_offset(page, head) + offset] = __float2bfloat16(problem.v[from]);
      }
    }
  }
  cache_.emplace(memory);
  block_tables_.emplace(tables);
  cache.data = cache_->data();
  params_.block_tables = block_tables_->data();
}

std::vector<std::vector<float>> PrefillBatch::Run() {
  Require(cudaMemset(out_->data(), 0xff, out_->size() * sizeof(__nv_bfloat16)));
  ParallaxPrefill(params_, device_, Stream(0, nullptr));
  const std::vector<__nv_bfloat16> raw = out_->Read();
  const int64_t stride = row_size_ + kStridePadding;
  std::vector<std::vector<float>> outs(params_.batch);
  for (int i = 0; i < params_.batch; ++i) {
    for (int row = query_start_[i]; row < query_start_[i + 1]; ++row) {
      for (int64_t x = 0; x < row_size_; ++x) {
        outs[i].push_back(__bfloat162float(raw[row * stride + x]));
      }
    }
  }
  return outs;
}

}  // namespace parallax::kernels::cuda
