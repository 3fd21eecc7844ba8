// cpu_model_bench [layers] [threads]: the CPU backend's three bars, on a model far larger than
// the last-level cache.
//
//   decode_1    bytes of weights and KV that a batch-1 step reads, per second, against the
//               machine's streaming read bandwidth measured in the same run: bar 60 %
//   decode_16   tokens per second of 16 sequences against one: bar 4x
//   prefill     FLOP/s of a prompt of 512 against OpenBLAS sgemm on the same threads: bar 50 %
//
// Each number is the fastest of several repetitions, interleaved with its yardstick, because
// the machine may be shared. Prints a table, then JSON.
#include <cblas.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "bench/kernels/bench_report.h"
#include "bench/kernels/read_bandwidth.h"
#include "bench/model/model_workload.h"

extern "C" void openblas_set_num_threads(int threads);

namespace parallax::bench {
namespace {

constexpr int kContext = 512;
constexpr int kSequences = 16;
constexpr int kRounds = 3;
constexpr int kDecodeSteps = 8;

// The matrix product that prefill spends most of its time in: gate and up fused.
double SgemmFlopsPerSecond(const WorkloadShape& shape) {
  const auto m = static_cast<blasint>(kContext);
  const auto n = static_cast<blasint>(2 * shape.intermediate);
  const auto k = static_cast<blasint>(shape.hidden);
  const std::vector<float> a(size_t(m) * k, 0.5f);
  const std::vector<float> b(size_t(n) * k, 0.25f);
  std::vector<float> c(size_t(m) * n);
  const double seconds = BestSeconds(5, [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, a.data(), k, b.data(), k,
                0.0f, c.data(), n);
  });
  return 2.0 * m * n * k / seconds;
}

// Multiplications and additions of a prompt: the linear layers, the two score products and two
// value products of every visible (query, key) pair, and the head of the last row.
double PrefillFlops(const WorkloadShape& shape) {
  const double pairs = 0.5 * kContext * (kContext + 1);
  const double attention =
      8.0 * pairs * static_cast<double>(shape.layers * shape.heads * shape.head_dim);
  return 2.0 * kContext * static_cast<double>(shape.LayerParameters()) + attention +
         2.0 * static_cast<double>(shape.HeadParameters());
}

double DecodeBytes(const WorkloadShape& shape) {
  const double kv =
      2.0 * 2.0 * kContext * static_cast<double>(shape.layers * shape.kv_heads * shape.head_dim);
  return 2.0 * static_cast<double>(shape.LayerParameters() + shape.HeadParameters()) + kv;
}

struct Best {
  double bandwidth = 0;
  double sgemm = 0;
  double decode_one_seconds = 1e30;
  double decode_all_seconds = 1e30;
  double prefill_seconds = 1e30;
};

Best Measure(const WorkloadShape& shape, int threads) {
  openblas_set_num_threads(threads);
  ModelWorkload workload(shape, threads, kSequences, kContext + kPageTokens);
  for (int slot = 0; slot < kSequences; ++slot) workload.Prefill(slot, kContext);
  kernels::ThreadPool pool(threads);
  Best best;
  for (int round = 0; round < kRounds; ++round) {
    best.bandwidth = std::max(best.bandwidth, MeasureReadBandwidth(pool));
    best.decode_one_seconds = std::min(
        best.decode_one_seconds, BestSeconds(kDecodeSteps, [&] { workload.Decode(1, kContext); }));
    best.decode_all_seconds =
        std::min(best.decode_all_seconds,
                 BestSeconds(kDecodeSteps, [&] { workload.Decode(kSequences, kContext); }));
    best.sgemm = std::max(best.sgemm, SgemmFlopsPerSecond(shape));
    best.prefill_seconds =
        std::min(best.prefill_seconds, BestSeconds(2, [&] { workload.Prefill(0, kContext); }));
  }
  return best;
}

void Report(const WorkloadShape& shape, const Best& best) {
  BenchReport report;
  const double decode_rate = DecodeBytes(shape) / best.decode_one_seconds;
  const double prefill_rate = PrefillFlops(shape) / best.prefill_seconds;
  report.Add("weights",
             2e-6 * static_cast<double>(shape.LayerParameters() + shape.HeadParameters()), "MB",
             std::to_string(shape.layers) + " layers of the 0.6B shape, bf16");
  report.Add("read_bandwidth", best.bandwidth / 1e9, "GB/s", "all threads");
  report.Add("decode_1", 1 / best.decode_one_seconds, "tokens/s");
  report.Add("decode_1_bytes", decode_rate / 1e9, "GB/s", "weights and KV");
  report.Add("decode_1_of_bandwidth", 100 * decode_rate / best.bandwidth, "%", "bar 60");
  report.Add("decode_16", kSequences / best.decode_all_seconds, "tokens/s");
  report.Add("decode_16_over_1", kSequences * best.decode_one_seconds / best.decode_all_seconds,
             "x", "bar 4");
  report.Add("sgemm", best.sgemm / 1e9, "GFLOP/s", "OpenBLAS, gate_up of 512 rows");
  report.Add("prefill_512", prefill_rate / 1e9, "GFLOP/s",
             std::to_string(static_cast<int>(kContext / best.prefill_seconds)) + " tokens/s");
  report.Add("prefill_of_sgemm", 100 * prefill_rate / best.sgemm, "%", "bar 50");
  report.PrintTable();
  std::printf("%s\n", report.ToJson().c_str());
}

}  // namespace
}  // namespace parallax::bench

int main(int argc, char** argv) {
  parallax::bench::WorkloadShape shape;
  if (argc > 1) shape.layers = std::max(1, std::atoi(argv[1]));
  const int hardware = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : hardware;
  parallax::bench::Report(shape, parallax::bench::Measure(shape, threads));
  return 0;
}
