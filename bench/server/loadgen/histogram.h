// Histogram: log-linear counts of durations, in the manner of HdrHistogram (G. Tene).
//
// Every value from 1 ns to an hour is counted in a bucket no wider than 1/1024 of itself, so
// that a quantile read off the counts is at most 0.1 % above the exact one, however many
// values there are. Mean, minimum and maximum are exact. Values above the range are counted
// in the last bucket; values below 1 ns count as 1 ns.
//
// Thread safety: none; give each thread its own and Merge.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_HISTOGRAM_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_HISTOGRAM_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace parallax::loadgen {

class Histogram {
 public:
  static constexpr int64_t kMaxValueNs = int64_t{3600} * 1'000'000'000;

  Histogram();

  void Record(int64_t value_ns);
  void Merge(const Histogram& other);

  int64_t count() const { return count_; }
  int64_t min_ns() const { return count_ == 0 ? 0 : min_; }
  int64_t max_ns() const { return max_; }
  double mean_ns() const { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }

  /// The highest value that shares the bucket of the smallest recorded value at or above
  /// which a share `quantile` of all values lies; 0 if nothing was recorded.
  int64_t ValueAtQuantile(double quantile) const;

  /// The occupied ranges, ascending: (highest value of the range, count). For files and plots:
  /// ranges are buckets taken eight at a time, no wider than 1/128 of their values.
  std::vector<std::pair<int64_t, int64_t>> Ranges() const;

 private:
  static int IndexOf(int64_t value_ns);
  static int64_t HighestValueAt(int index);

  std::vector<int64_t> counts_;
  int64_t count_ = 0;
  int64_t min_ = 0;
  int64_t max_ = 0;
  double sum_ = 0.0;
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_HISTOGRAM_H_
