// Benchmarks of the CPU ops: cpu_kernels_bench [threads] [json file].
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "bench/kernels/bench_report.h"
#include "bench/kernels/kernel_benches.h"
#include "kernels/cpu/thread_pool.h"

int main(int argc, char** argv) {
  const int threads =
      argc > 1 ? std::atoi(argv[1]) : static_cast<int>(std::thread::hardware_concurrency());
  parallax::kernels::ThreadPool pool(threads);
  std::printf("threads: %d\n", pool.size());
  parallax::bench::BenchReport report;
  parallax::bench::BenchLinear(pool, report);
  parallax::bench::BenchAttention(pool, report);
  report.PrintTable();
  if (argc <= 2) {
    std::printf("%s", report.ToJson().c_str());
    return 0;
  }
  std::ofstream json(argv[2]);
  json << report.ToJson();
  return json.good() ? 0 : 1;
}
