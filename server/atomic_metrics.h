// Counters, gauges and histograms without locks: the engine's thread observes while a
// scrape reads, and neither ever waits for the other.
//
// A scrape sees each number at some moment of the scrape; numbers of one scrape may be a
// few observations apart from each other. All updates are relaxed atomics: the numbers
// order nothing else.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_ATOMIC_METRICS_H_
#define PARALLAX_SERVER_ATOMIC_METRICS_H_

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "prometheus/client_metric.h"

namespace parallax::server {

class AtomicCounter {
 public:
  void Add(int64_t amount) { value_.fetch_add(amount, std::memory_order_relaxed); }
  void Increment() { Add(1); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

class AtomicGauge {
 public:
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

/// Observes whole numbers of some unit (nanoseconds, tokens), so that the sum is an atomic
/// addition too; reports them times `scale` (1e-9: seconds).
class AtomicHistogram {
 public:
  /// `bounds`: upper bounds in the reported unit, increasing, inclusive.
  AtomicHistogram(std::span<const double> bounds, double scale);

  void Observe(int64_t value);
  prometheus::ClientMetric::Histogram Collect() const;

 private:
  const std::vector<double> bounds_;
  const double scale_;
  std::vector<int64_t> unit_bounds_;
  std::vector<std::atomic<uint64_t>> counts_;  // one a bound, and one past the last
  std::atomic<int64_t> sum_{0};
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_ATOMIC_METRICS_H_
