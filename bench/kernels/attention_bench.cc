#include <cstdint>
#include <string>
#include <vector>

#include "bench/kernels/bench_report.h"
#include "bench/kernels/kernel_benches.h"
#include "kernels/parallax_attention.h"

namespace parallax::bench {
namespace {

using kernels::kPageSize;
using kernels::Stream;
using kernels::TensorView;

constexpr int kRepetitions = 7;
constexpr int kQueryHeads = 16;
constexpr int kKvHeads = 8;
constexpr int kHeadDim = 128;

// `sequences` of the same length, the last `rows` of each as queries.
class AttentionBatch {
 public:
  AttentionBatch(int sequences, int context, int rows, bool probe, const Stream& stream) {
    const int pages = (context + kPageSize - 1) / kPageSize;
    params_.cache.num_pages = sequences * pages;
    params_.cache.num_kv_heads = kKvHeads;
    params_.cache.head_dim = kHeadDim;
    // 0x3c00 is 2^-7 in bf16.
    cache_.assign(params_.cache.num_pages * params_.cache.page_elements(), 0x3c00);
    params_.cache.data = cache_.data();
    query_start_.push_back(0);
    for (int s = 0; s < sequences; ++s) {
      query_start_.push_back(query_start_.back() + rows);
      context_len_.push_back(context);
      for (int page = 0; page < pages; ++page) block_tables_.push_back(s * pages + page);
    }
    values_.assign(int64_t{sequences} * rows * kQueryHeads * kHeadDim, 0.01f);
    out_.resize(values_.size());
    const auto shape = {int64_t{sequences} * rows, int64_t{kQueryHeads}, int64_t{kHeadDim}};
    params_.q = TensorView(values_.data(), kernels::DType::kFloat32, shape);
    if (probe) params_.r = params_.q;
    params_.out = TensorView(out_.data(), kernels::DType::kFloat32, shape);
    params_.query_start = query_start_;
    params_.context_len = context_len_;
    params_.block_tables = block_tables_;
    params_.max_blocks = pages;
    workspace_.resize(
        kernels::ParallaxAttentionWorkspaceBytes(kQueryHeads, kKvHeads, kHeadDim, context, stream));
    params_.workspace = workspace_;
  }

  const kernels::ParallaxAttentionParams& params() const { return params_; }
  double cache_bytes() const { return static_cast<double>(cache_.size() * sizeof(uint16_t)); }

 private:
  kernels::ParallaxAttentionParams params_;
  std::vector<uint16_t> cache_;
  std::vector<int32_t> query_start_;
  std::vector<int32_t> context_len_;
  std::vector<int32_t> block_tables_;
  std::vector<float> values_;
  std::vector<float> out_;
  std::vector<std::byte> workspace_;
};

// Multiply-adds count two; the probe doubles both products.
double Flops(double query_keys, bool probe) {
  return query_keys * kQueryHeads * kHeadDim * (probe ? 8.0 : 4.0);
}

void BenchDecode(int sequences, int context, const Stream& stream, BenchReport& report) {
  for (bool probe : {true, false}) {
    const AttentionBatch batch(sequences, context, /*rows=*/1, probe, stream);
    const double seconds =
        BestSeconds(kRepetitions, [&] { kernels::ParallaxAttention(batch.params(), stream); });
    report.Add(
        "attention_decode_" + std::to_string(sequences) + "x" + std::to_string(context) +
            (probe ? "" : "_softmax"),
        Flops(double{1} * sequences * context, probe) / seconds / 1e9, "GFLOP/s",
        std::to_string(static_cast<int>(batch.cache_bytes() / seconds / 1e9)) + " GB/s of cache");
  }
}

void BenchPrefill(int tokens, const Stream& stream, BenchReport& report) {
  for (bool probe : {true, false}) {
    const AttentionBatch batch(/*sequences=*/1, tokens, tokens, probe, stream);
    const double seconds =
        BestSeconds(kRepetitions, [&] { kernels::ParallaxAttention(batch.params(), stream); });
    report.Add("attention_prefill_" + std::to_string(tokens) + (probe ? "" : "_softmax"),
               Flops(0.5 * tokens * (tokens + 1), probe) / seconds / 1e9, "GFLOP/s",
               std::to_string(seconds * 1e3) + " ms");
  }
}

}  // namespace

void BenchAttention(kernels::ThreadPool& pool, BenchReport& report) {
  const Stream stream(pool);
  BenchDecode(/*sequences=*/1, /*context=*/4096, stream, report);
  BenchDecode(/*sequences=*/1, /*context=*/32768, stream, report);
  BenchDecode(/*sequences=*/16, /*context=*/4096, stream, report);
  BenchPrefill(512, stream, report);
  BenchPrefill(2048, stream, report);
}

}  // namespace parallax::bench
