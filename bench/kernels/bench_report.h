// Timing and reporting shared by the parts of cpu_kernels_bench.
#ifndef PARALLAX_BENCH_KERNELS_BENCH_REPORT_H_
#define PARALLAX_BENCH_KERNELS_BENCH_REPORT_H_

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

namespace parallax::bench {

struct Measurement {
  std::string name;
  double value = 0.0;
  std::string unit;
  std::string note;  // what it is measured against
};

class BenchReport {
 public:
  void Add(std::string name, double value, std::string unit, std::string note = "");

  // A table for people, and JSON for everything else.
  void PrintTable() const;
  std::string ToJson() const;

 private:
  std::vector<Measurement> measurements_;
};

// Seconds of the fastest of `repetitions` runs, after one that is not timed: on a shared
// machine the fastest is the one that was disturbed least.
template <typename Function>
double BestSeconds(int repetitions, const Function& function) {
  using Clock = std::chrono::steady_clock;
  function();
  double best = 1e30;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = Clock::now();
    function();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_BENCH_REPORT_H_
