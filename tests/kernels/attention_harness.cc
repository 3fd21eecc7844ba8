#include "tests/kernels/attention_harness.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/thread_pool.h"
#include "kernels/half_float.h"
#include "kernels/kv_cache_write.h"
#include "kernels/parallax_attention.h"

namespace parallax::kernels {
namespace {

using reference::AttentionProblem;

float Round(float value, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return value;
    case DType::kBFloat16:
      return BFloat16ToFloat(FloatToBFloat16(value));
    case DType::kFloat16:
      return Float16ToFloat(FloatToFloat16(value));
  }
  return value;
}

std::vector<float> RandomVector(size_t size, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(rng);
  return values;
}

int PagesOf(int tokens) { return (tokens + kPageSize - 1) / kPageSize; }

// The sequences' keys and values in a paged cache; every byte they do not own is 0xff, which is
// NaN in all three formats.
class PagedCache {
 public:
  PagedCache(const std::vector<AttentionProblem>& problems, const HarnessOptions& options,
             const Stream& stream) {
    const AttentionProblem& first = problems.front();
    int pages = 3;  // some that nobody owns
    for (const AttentionProblem& problem : problems) {
      pages += PagesOf(problem.context);
      max_blocks_ = std::max<int64_t>(max_blocks_, PagesOf(problem.context));
    }
    view_.dtype = options.cache_dtype;
    view_.num_pages = pages;
    view_.num_kv_heads = first.kv_heads;
    view_.head_dim = first.head_dim;
    memory_.assign(pages * view_.page_bytes(), 0xff);
    view_.data = memory_.data();
    AssignPages(problems, options.page_order_seed);
    for (size_t i = 0; i < problems.size(); ++i) Write(problems[i], i, stream);
  }

  const KvCacheView& view() const { return view_; }
  const std::vector<int32_t>& block_tables() const { return block_tables_; }
  int64_t max_blocks() const { return max_blocks_; }

 private:
  void AssignPages(const std::vector<AttentionProblem>& problems, uint32_t seed) {
    std::vector<int32_t> order(view_.num_pages);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 rng(seed);
    std::shuffle(order.begin(), order.end(), rng);
    block_tables_.assign(problems.size() * max_blocks_, -1);
    size_t next = 0;
    for (size_t i = 0; i < problems.size(); ++i) {
      const AttentionProblem& problem = problems[i];
      const int rows_start = problem.context - problem.query_rows;
      const int first_key = problem.window > 0 ? std::max(0, rows_start - problem.window + 1) : 0;
      for (int page = first_key / kPageSize; page < PagesOf(problem.context); ++page) {
        block_tables_[i * max_blocks_ + page] = order[next++];
      }
    }
  }

  void Write(const AttentionProblem& problem, size_t sequence, const Stream& stream) {
    std::vector<int64_t> slots(problem.context);
    for (int token = 0; token < problem.context; ++token) {
      const int64_t page = block_tables_[sequence * max_blocks_ + token / kPageSize];
      slots[token] = page < 0 ? -1 : page * kPageSize + token % kPageSize;
    }
    const auto tensor = [&](const std::vector<float>& values) {
      return ConstTensorView(values.data(), DType::kFloat32,
                             {problem.context, problem.kv_heads, problem.head_dim});
    };
    KvCacheWrite(tensor(problem.k), tensor(problem.v), slots, view_, stream);
  }

  KvCacheView view_;
  std::vector<uint8_t> memory_;
  std::vector<int32_t> block_tables_;
  int64_t max_blocks_ = 0;
};

// Rows [begin[i], end[i]) of each sequence i, packed as one batch.
struct PackedRows {
  std::vector<float> q, r, out;
  std::vector<int32_t> query_start = {0};
  std::vector<int32_t> context_len;
};

PackedRows Pack(const std::vector<AttentionProblem>& problems, int round, int chunk) {
  PackedRows packed;
  for (const AttentionProblem& problem : problems) {
    const int row_size = problem.query_heads * problem.head_dim;
    const int begin = chunk == 0 ? 0 : std::min(round * chunk, problem.query_rows);
    const int end = chunk == 0 ? problem.query_rows : std::min(begin + chunk, problem.query_rows);
    const auto append = [&](const std::vector<float>& from, std::vector<float>& to) {
      if (from.empty()) return;
      to.insert(to.end(), from.begin() + begin * row_size, from.begin() + end * row_size);
    };
    append(problem.q, packed.q);
    append(problem.r, packed.r);
    packed.query_start.push_back(packed.query_start.back() + end - begin);
    packed.context_len.push_back(problem.context - problem.query_rows + end);
  }
  packed.out.assign(packed.q.size(), -1.0f);
  return packed;
}

void RunPacked(const AttentionProblem& like, const PagedCache& cache, PackedRows& packed,
               const Stream& stream) {
  const int64_t tokens = packed.query_start.back();
  const auto shape = {tokens, int64_t{like.query_heads}, int64_t{like.head_dim}};
  ParallaxAttentionParams params;
  params.q = ConstTensorView(packed.q.data(), DType::kFloat32, shape);
  if (!packed.r.empty()) params.r = ConstTensorView(packed.r.data(), DType::kFloat32, shape);
  params.out = TensorView(packed.out.data(), DType::kFloat32, shape);
  params.cache = cache.view();
  params.query_start = packed.query_start;
  params.context_len = packed.context_len;
  params.block_tables = cache.block_tables();
  params.max_blocks = cache.max_blocks();
  params.softmax_scale = static_cast<float>(like.scale);
  params.sliding_window = like.window;
  std::vector<std::byte> workspace(ParallaxAttentionWorkspaceBytes(
      like.query_heads, like.kv_heads, like.head_dim, cache.max_blocks() * kPageSize, stream));
  params.workspace = workspace;
  ParallaxAttention(params, stream);
}

}  // namespace

AttentionProblem RandomProblem(const ProblemShape& shape, DType cache_dtype, std::mt19937& rng) {
  AttentionProblem problem;
  problem.query_rows = shape.query_rows;
  problem.context = shape.context;
  problem.query_heads = shape.query_heads;
  problem.kv_heads = shape.kv_heads;
  problem.head_dim = shape.head_dim;
  problem.window = shape.window;
  problem.scale = static_cast<float>(1.0 / std::sqrt(shape.head_dim));
  const size_t query_size = size_t(shape.query_rows) * shape.query_heads * shape.head_dim;
  const size_t kv_size = size_t(shape.context) * shape.kv_heads * shape.head_dim;
  problem.q = RandomVector(query_size, rng);
  if (shape.probe) problem.r = RandomVector(query_size, rng);
  problem.k = RandomVector(kv_size, rng);
  problem.v = RandomVector(kv_size, rng);
  for (float& x : problem.k) x = Round(x, cache_dtype);
  for (float& x : problem.v) x = Round(x, cache_dtype);
  return problem;
}

std::vector<std::vector<float>> RunAttention(const std::vector<AttentionProblem>& problems,
                                             const HarnessOptions& options) {
  ThreadPool pool(options.threads);
  const Stream stream(pool);
  const PagedCache cache(problems, options, stream);
  int most_rows = 0;
  for (const AttentionProblem& problem : problems) {
    most_rows = std::max(most_rows, problem.query_rows);
  }
  const int rounds = options.chunk == 0 ? 1 : (most_rows + options.chunk - 1) / options.chunk;
  std::vector<std::vector<float>> outs(problems.size());
  for (int round = 0; round < rounds; ++round) {
    PackedRows packed = Pack(problems, round, options.chunk);
    RunPacked(problems.front(), cache, packed, stream);
    for (size_t i = 0; i < problems.size(); ++i) {
      const int64_t row_size = problems[i].query_heads * problems[i].head_dim;
      outs[i].insert(outs[i].end(), packed.out.begin() + packed.query_start[i] * row_size,
                     packed.out.begin() + packed.query_start[i + 1] * row_size);
    }
  }
  return outs;
}

double RelativeError(const std::vector<float>& a, const std::vector<double>& b) {
  double error = 0.0;
  double largest = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    // Written so that a NaN counts as an infinite error.
    const double difference = std::abs(a[i] - b[i]);
    if (!(difference <= error)) error = std::isnan(difference) ? HUGE_VAL : difference;
    largest = std::max(largest, std::abs(b[i]));
  }
  return a.size() == b.size() ? error / largest : HUGE_VAL;
}

}  // namespace parallax::kernels
