#include "tests/kernels/cuda/parallax_attention/attention_batch.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

constexpr int kStridePadding = 16;  // elements between tokens' rows of q, r and out

std::vector<float> RandomRounded(size_t size, float mean, float deviation, std::mt19937& rng) {
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(size);
  for (float& value : values) value = __bfloat162float(__float2bfloat16(normal(rng)));
  return values;
}

int PagesOf(int tokens) { return (tokens + kPageSize - 1) / kPageSize; }

// What nothing may read: NaN and infinity by turns, in rows of the 64 elements that a token has
// side by side in a block, because beside a NaN an infinity would not show.
std::vector<__nv_bfloat16> Poison(size_t size) {
  constexpr size_t kRowElements = 64;
  std::vector<__nv_bfloat16> values(size);
  for (size_t i = 0; i < size; ++i) {
    values[i] = __ushort_as_bfloat16(i / kRowElements % 2 == 0 ? 0xffff : 0x7f80);
  }
  return values;
}

template <typename T>
void CopyFront(const DeviceArray<T>& from, DeviceArray<T>& to) {
  if (from.size() > to.size()) throw std::length_error("more contents than the batch can take");
  Require(cudaMemcpy(to.data(), from.data(), from.size() * sizeof(T), cudaMemcpyDeviceToDevice));
}

}  // namespace

AttentionProblem RandomProblem(const AttentionShape& shape, int query_rows, int context,
                               std::mt19937& rng) {
  AttentionProblem problem;
  problem.query_rows = query_rows;
  problem.context = context;
  problem.query_heads = shape.query_heads;
  problem.kv_heads = shape.kv_heads;
  problem.head_dim = shape.head_dim;
  problem.window = shape.window;
  problem.scale = static_cast<float>(1.0 / std::sqrt(shape.head_dim));
  const size_t query_size = size_t(query_rows) * shape.query_heads * shape.head_dim;
  const size_t kv_size = size_t(context) * shape.kv_heads * shape.head_dim;
  problem.q = RandomRounded(query_size, 0.0f, shape.query_deviation, rng);
  if (shape.probe) problem.r = RandomRounded(query_size, 0.0f, shape.probe_deviation, rng);
  problem.k = RandomRounded(kv_size, shape.key_mean, 1.0f, rng);
  problem.v = RandomRounded(kv_size, 0.0f, 1.0f, rng);
  return problem;
}

double RelativeError(const std::vector<float>& out, const std::vector<double>& reference) {
  double difference = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < reference.size(); ++i) {
    difference += (out[i] - reference[i]) * (out[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  const double error = std::sqrt(difference / norm);
  return out.size() == reference.size() && !std::isnan(error) ? error : HUGE_VAL;
}

double RelativeErrorOfAll(const std::vector<std::vector<float>>& outs,
                          const std::vector<AttentionProblem>& problems) {
  std::vector<float> all;
  std::vector<double> references;
  for (const std::vector<float>& out : outs) all.insert(all.end(), out.begin(), out.end());
  for (const AttentionProblem& problem : problems) {
    const std::vector<double> reference = reference::Attention(problem);
    references.insert(references.end(), reference.begin(), reference.end());
  }
  return RelativeError(all, references);
}

DeviceProperties TunedDevice() { return ReadDeviceProperties(0); }

DeviceProperties PortableDevice() {
  DeviceProperties device = ReadDeviceProperties(0);
  device.compute_capability = 80;
  return device;
}

AttentionBatch::AttentionBatch(const std::vector<AttentionProblem>& problems, std::mt19937& rng)
    : query_heads_(problems.front().query_heads),
      head_dim_(problems.front().head_dim),
      has_probe_(!problems.front().r.empty()),
      scale_(static_cast<float>(problems.front().scale)),
      window_(problems.front().window) {
  std::vector<int> contexts;
  for (const AttentionProblem& problem : problems) {
    query_start_.push_back(query_start_.back() + problem.query_rows);
    contexts.push_back(problem.context);
    max_blocks_ = std::max<int64_t>(max_blocks_, PagesOf(problem.context) + 1);
  }
  contexts_.emplace(contexts);
  query_start_device_.emplace(query_start_);
  PackRows(problems);
  FillCache(problems, rng);
}

void AttentionBatch::PackRows(const std::vector<AttentionProblem>& problems) {
  const int64_t row_size = int64_t{query_heads_} * head_dim_;
  const int64_t stride = row_size + kStridePadding;
  std::vector<__nv_bfloat16> q = Poison(query_start_.back() * stride);
  std::vector<__nv_bfloat16> r = q;
  for (size_t i = 0; i < problems.size(); ++i) {
    for (int64_t x = 0; x < problems[i].query_rows * row_size; ++x) {
      const int64_t at = (query_start_[i] + x / row_size) * stride + x % row_size;
      q[at] = __float2bfloat16(problems[i].q[x]);
      if (has_probe_) r[at] = __float2bfloat16(problems[i].r[x]);
    }
  }
  q_.emplace(q);
  r_.emplace(r);
  out_.emplace(q.size());
}

TensorView AttentionBatch::View(const DeviceArray<__nv_bfloat16>& rows) const {
  const int64_t stride = int64_t{query_heads_} * head_dim_ + kStridePadding;
  TensorView tensor(rows.data(), DType::kBFloat16,
                    {static_cast<int64_t>(rows.size()) / stride, query_heads_, head_dim_},
                    {DeviceType::kCuda, 0});
  tensor.strides[0] = stride;
  return tensor;
}

void AttentionBatch::FillCache(const std::vector<AttentionProblem>& problems, std::mt19937& rng) {
  PagedKvCache& cache = cache_view_;
  cache.num_kv_heads = problems.front().kv_heads;
  cache.head_dim = head_dim_;
  cache.num_pages = 3;  // some that nobody owns; page 0 of them stands in unused table entries
  for (const AttentionProblem& problem : problems) cache.num_pages += PagesOf(problem.context);
  std::vector<int> order(cache.num_pages - 1);
  std::iota(order.begin(), order.end(), 1);
  std::shuffle(order.begin(), order.end(), rng);
  std::vector<int> tables(problems.size() * max_blocks_, 0);
  std::vector<__nv_bfloat16> memory = Poison(cache.num_pages * cache.page_elements());
  size_t next = 0;
  for (size_t i = 0; i < problems.size(); ++i) {
    const AttentionProblem& problem = problems[i];
    const int first_row = problem.context - problem.query_rows;
    const int first_key = problem.window > 0 ? std::max(0, first_row - problem.window + 1) : 0;
    for (int t = first_key; t < problem.context; ++t) {
      int& page = tables[i * max_blocks_ + t / kPageSize];
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
}

void AttentionBatch::PoisonOut() {
  Require(cudaMemset(out_->data(), 0xff, out_->size() * sizeof(__nv_bfloat16)));
  Require(cudaDeviceSynchronize());
}

std::vector<std::vector<float>> AttentionBatch::ReadOut() const {
  const std::vector<__nv_bfloat16> raw = out_->Read();
  const int64_t row_size = int64_t{query_heads_} * head_dim_;
  std::vector<std::vector<float>> outs(query_start_.size() - 1);
  for (size_t i = 0; i < outs.size(); ++i) {
    for (int row = query_start_[i]; row < query_start_[i + 1]; ++row) {
      for (int64_t x = 0; x < row_size; ++x) {
        outs[i].push_back(__bfloat162float(raw[row * (row_size + kStridePadding) + x]));
      }
    }
  }
  return outs;
}

void AttentionBatch::SetContexts(const std::vector<int>& contexts) {
  CopyFront(DeviceArray<int>(contexts), *contexts_);
}

void AttentionBatch::TakeContents(const AttentionBatch& other) {
  if (other.max_blocks_ != max_blocks_) throw std::length_error("block tables of another width");
  query_start_ = other.query_start_;
  CopyFront(*other.q_, *q_);
  CopyFront(*other.r_, *r_);
  CopyFront(*other.cache_, *cache_);
  CopyFront(*other.query_start_device_, *query_start_device_);
  CopyFront(*other.contexts_, *contexts_);
  CopyFront(*other.block_tables_, *block_tables_);
}

}  // namespace parallax::kernels::cuda
