#include "bench/kernels/cuda/attention_problem.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "bench/kernels/cuda/memory_kernels.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"
#include "tests/kernels/reference/attention_reference.h"

namespace parallax::bench {
namespace {

using kernels::kPageSize;
using kernels::cuda::CheckCuda;
using kernels::cuda::DeviceBuffer;
using kernels::cuda::KvBlockOffset;

constexpr size_t kBf16Bytes = sizeof(__nv_bfloat16);

const kernels::Stream& DefaultStream() {
  static const kernels::Stream stream(0, nullptr);
  return stream;
}

int64_t Pages(int32_t keys) { return (keys + kPageSize - 1) / kPageSize; }

// [copies, sequences, max_blocks]: every page of the pool's first part once, in random order.
std::vector<int32_t> ShuffledTables(const BenchCase& bench_case, int copies, int64_t max_blocks) {
  std::vector<int32_t> pages(bench_case.pages() * copies);
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<int32_t> tables(copies * bench_case.sequences() * max_blocks, 0);
  auto next = pages.begin();
  int64_t row = 0;
  for (int copy = 0; copy < copies; ++copy) {
    // Shuffled within a copy, which so stays one range of the pool.
    std::shuffle(next, next + bench_case.pages(), std::mt19937(copy));
    for (int32_t keys : bench_case.context_len) {
      std::copy(next, next + Pages(keys), tables.begin() + row * max_blocks);
      next += Pages(keys);
      ++row;
    }
  }
  return tables;
}

std::vector<int32_t> QueryStart(const BenchCase& bench_case) {
  std::vector<int32_t> start;
  for (int i = 0; i <= bench_case.sequences(); ++i) start.push_back(i * bench_case.new_tokens);
  return start;
}

DeviceBuffer ToDevice(const std::vector<int32_t>& host, const char* purpose) {
  DeviceBuffer buffer(host.size() * sizeof(int32_t), purpose);
  CheckCuda(cudaMemcpy(buffer.data(), host.data(), buffer.size(), cudaMemcpyHostToDevice), purpose,
            "cudaMemcpy");
  return buffer;
}

std::vector<__nv_bfloat16> ToHost(const __nv_bfloat16* data, size_t elements) {
  std::vector<__nv_bfloat16> host(elements);
  CheckCuda(cudaMemcpy(host.data(), data, elements * kBf16Bytes, cudaMemcpyDefault),
            "AttentionProblem", "cudaMemcpy");
  return host;
}

}  // namespace

KvPool::KvPool(size_t bytes) : buffer_(bytes, "pool of K and V") {
  FillNormal(data(), bytes / kBf16Bytes, 1, DefaultStream());
}

AttentionProblem::AttentionProblem(const BenchCase& bench_case, const KvPool& pool)
    : case_(bench_case),
      cache_{pool.data(), 0, bench_case.kv_heads, bench_case.head_dim},
      copies_(bench_case.copies(pool.bytes())),
      max_blocks_(Pages(bench_case.max_context())),
      host_tables_(ShuffledTables(bench_case, copies_, max_blocks_)),
      block_tables_(ToDevice(host_tables_, "block tables")),
      context_len_(ToDevice(bench_case.context_len, "context_len")),
      query_start_(ToDevice(QueryStart(bench_case), "query_start")),
      q_(row_bytes(), "q"),
      r_(row_bytes(), "r"),
      out_(row_bytes(), "out") {
  cache_.num_pages = case_.pages() * copies_;
  const size_t bytes = cache_.num_pages * cache_.page_elements() * kBf16Bytes;
  if (bytes > pool.bytes()) {
    kernels::ThrowKernelError("bench", "pool", "K and V take " + std::to_string(bytes) + " bytes");
  }
  FillNormal(q_.as<__nv_bfloat16>(), q_.size() / kBf16Bytes, 2, DefaultStream());
  FillNormal(r_.as<__nv_bfloat16>(), r_.size() / kBf16Bytes, 3, DefaultStream());
  CheckCuda(cudaDeviceSynchronize(), "AttentionProblem", "fill");
}

size_t AttentionProblem::row_bytes() const {
  return tokens() * case_.query_heads * case_.head_dim * kBf16Bytes;
}

const int32_t* AttentionProblem::block_tables(int copy) const {
  return block_tables_.as<int32_t>() + copy * case_.sequences() * max_blocks_;
}

kernels::TensorView AttentionProblem::View(const DeviceBuffer& buffer) const {
  return kernels::TensorView(buffer.data(), kernels::DType::kBFloat16,
                             {tokens(), case_.query_heads, case_.head_dim},
                             kernels::Device{kernels::DeviceType::kCuda, 0});
}

kernels::ConstTensorView AttentionProblem::q() const { return View(q_); }
kernels::ConstTensorView AttentionProblem::r() const { return View(r_); }
kernels::TensorView AttentionProblem::out() const { return View(out_); }

const void* AttentionProblem::kv_copy(int copy) const {
  return cache_.data + copy * case_.pages() * cache_.page_elements();
}

double AttentionProblem::MaxError(int copy, bool softmax) const {
  const int last_row = case_.new_tokens - 1;
  const int last_head = case_.query_heads - 1;
  const auto& lengths = case_.context_len;
  const auto longest = std::max_element(lengths.begin(), lengths.end()) - lengths.begin();
  return std::max({RowError(copy, static_cast<int>(longest), last_row, 0, softmax),
                   RowError(copy, case_.sequences() - 1, last_row, last_head, softmax),
                   RowError(copy, 0, last_row / 2, last_head / 2, softmax)});
}

double AttentionProblem::RowError(int copy, int sequence, int row, int head, bool softmax) const {
  const int kv_head = head / (case_.query_heads / case_.kv_heads);
  reference::AttentionProblem problem;
  problem.query_rows = problem.query_heads = problem.kv_heads = 1;
  problem.context = case_.context_len[sequence] - (case_.new_tokens - 1 - row);
  problem.head_dim = case_.head_dim;
  problem.scale = 1.0 / std::sqrt(case_.head_dim);
  problem.q = HostRow(q_, sequence, row, head);
  if (!softmax) problem.r = HostRow(r_, sequence, row, head);
  problem.k = HostKeys(copy, sequence, kv_head, problem.context, false);
  problem.v = HostKeys(copy, sequence, kv_head, problem.context, true);
  const std::vector<double> expected = reference::Attention(problem);
  const std::vector<float> got = HostRow(out_, sequence, row, head);
  double error = 0.0;
  double largest = 0.0;
  for (int d = 0; d < case_.head_dim; ++d) {
    const double difference = std::abs(got[d] - expected[d]);
    error = std::isnan(difference) ? INFINITY : std::max(error, difference);
    largest = std::max(largest, std::abs(expected[d]));
  }
  return error / largest;
}

std::vector<float> AttentionProblem::HostRow(const DeviceBuffer& rows, int sequence, int row,
                                             int head) const {
  const int64_t token = int64_t{sequence} * case_.new_tokens + row;
  const auto host =
      ToHost(rows.as<__nv_bfloat16>() + (token * case_.query_heads + head) * case_.head_dim,
             case_.head_dim);
  return {host.begin(), host.end()};
}

std::vector<float> AttentionProblem::HostKeys(int copy, int sequence, int kv_head, int keys,
                                              bool values) const {
  std::vector<float> rows;
  rows.reserve(int64_t{keys} * case_.head_dim);
  const int32_t* const table =
      host_tables_.data() + (int64_t{copy} * case_.sequences() + sequence) * max_blocks_;
  for (int key = 0; key < keys; key += kPageSize) {
    const int64_t page = table[key / kPageSize];
    const int64_t offset =
        values ? cache_.v_block_offset(page, kv_head) : cache_.k_block_offset(page, kv_head);
    const auto block = ToHost(cache_.data + offset, cache_.block_elements());
    for (int t = 0; t < std::min(kPageSize, keys - key); ++t) {
      for (int d = 0; d < case_.head_dim; ++d) rows.push_back(block[KvBlockOffset(t, d)]);
    }
  }
  return rows;
}

}  // namespace parallax::bench
