#include <cblas.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "bench/kernels/bench_report.h"
#include "bench/kernels/kernel_benches.h"
#include "bench/kernels/read_bandwidth.h"
#include "kernels/linear.h"

namespace parallax::bench {
namespace {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::PackedWeight;
using kernels::Stream;

struct Shape {
  const char* name;
  int64_t outputs;
  int64_t inputs;
};

// The layers of the 0.6B model: q, r, k, v fused (16 + 16 + 8 + 8 heads of 128), o, gate and
// up fused, down.
constexpr Shape kLayer[] = {{"qrkv_proj", 6144, 1024},
                            {"o_proj", 1024, 2048},
                            {"gate_up", 6144, 1024},
                            {"down", 1024, 3072}};
constexpr int kLayers = 14;  // 450 MB in bf16: no last-level cache helps
constexpr int kRepetitions = 7;
constexpr int64_t kMaxRows = 512;
constexpr int64_t kMaxWidth = 6144;

PackedWeight RandomWeight(const Shape& shape, const Stream& stream) {
  std::mt19937 rng(1);
  std::vector<uint16_t> bits(shape.outputs * shape.inputs);
  // Signs and mantissas at random around +-1 in bf16.
  for (uint16_t& value : bits) value = static_cast<uint16_t>(0x3f80 | (rng() & 0x807f));
  return PackedWeight(ConstTensorView(bits.data(), DType::kBFloat16, {shape.outputs, shape.inputs}),
                      stream);
}

void RunLinear(const PackedWeight& weight, int64_t rows, const std::vector<float>& x,
               std::vector<float>& y, const Stream& stream) {
  kernels::LinearParams params;
  params.x = ConstTensorView(x.data(), DType::kFloat32, {rows, weight.num_inputs()});
  params.weight = &weight;
  params.y = kernels::TensorView(y.data(), DType::kFloat32, {rows, weight.num_outputs()});
  kernels::Linear(params, stream);
}

void BenchDecode(kernels::ThreadPool& pool, BenchReport& report) {
  const Stream stream(pool);
  const std::vector<float> x(kMaxRows * kMaxWidth, 0.5f);
  std::vector<float> y(kMaxRows * kMaxWidth);
  std::vector<PackedWeight> weights;
  double bytes = 0.0;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const Shape& shape : kLayer) {
      weights.push_back(RandomWeight(shape, stream));
      bytes += static_cast<double>(weights.back().size_bytes());
    }
  }
  double one_row_seconds = 0.0;
  for (int64_t rows : {1, 2, 4, 8, 16, 32}) {
    // Both in turn, so that a disturbance of the machine meets both.
    const double bandwidth = MeasureReadBandwidth(pool);
    const double seconds = BestSeconds(kRepetitions, [&] {
      for (const PackedWeight& weight : weights) RunLinear(weight, rows, x, y, stream);
    });
    if (rows == 1) {
      one_row_seconds = seconds;
      report.Add("read_bandwidth", bandwidth / 1e9, "GB/s", "all threads");
    }
    const std::string name = "linear_decode_rows_" + std::to_string(rows);
    report.Add(name, bytes / seconds / 1e9, "GB/s",
               std::to_string(static_cast<int>(100.0 * bytes / seconds / bandwidth)) +
                   " % of read bandwidth");
    report.Add(name + "_speedup", rows * one_row_seconds / seconds, "x", "rows/s against one row");
  }
}

void BenchPrefill(kernels::ThreadPool& pool, BenchReport& report) {
  const Stream stream(pool);
  openblas_set_num_threads(pool.size());
  const std::vector<float> x(kMaxRows * kMaxWidth, 0.5f);
  std::vector<float> y(kMaxRows * kMaxWidth);
  for (const Shape& shape : kLayer) {
    const PackedWeight weight = RandomWeight(shape, stream);
    const std::vector<float> dense(shape.outputs * shape.inputs, 0.1f);
    const double flops = 2.0 * kMaxRows * shape.outputs * shape.inputs;
    const double ours =
        BestSeconds(kRepetitions, [&] { RunLinear(weight, kMaxRows, x, y, stream); });
    const double blas = BestSeconds(kRepetitions, [&] {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kMaxRows, shape.outputs, shape.inputs,
                  1.0f, x.data(), shape.inputs, dense.data(), shape.inputs, 0.0f, y.data(),
                  shape.outputs);
    });
    report.Add(std::string("linear_prefill_512_") + shape.name, flops / ours / 1e9, "GFLOP/s",
               std::to_string(static_cast<int>(100.0 * blas / ours)) + " % of OpenBLAS sgemm, " +
                   std::to_string(static_cast<int>(flops / blas / 1e9)) + " GFLOP/s");
  }
}

}  // namespace

void BenchLinear(kernels::ThreadPool& pool, BenchReport& report) {
  BenchDecode(pool, report);
  BenchPrefill(pool, report);
}

}  // namespace parallax::bench
