#include "server/atomic_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace parallax::server {

AtomicHistogram::AtomicHistogram(std::span<const double> bounds, double scale)
    : bounds_(bounds.begin(), bounds.end()), scale_(scale), counts_(bounds.size() + 1) {
  for (const double bound : bounds_) unit_bounds_.push_back(std::llround(bound / scale));
}

void AtomicHistogram::Observe(int64_t value) {
  const auto bound = std::lower_bound(unit_bounds_.begin(), unit_bounds_.end(), value);
  counts_[bound - unit_bounds_.begin()].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

prometheus::ClientMetric::Histogram AtomicHistogram::Collect() const {
  prometheus::ClientMetric::Histogram histogram;
  uint64_t cumulative = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    cumulative += counts_[i].load(std::memory_order_relaxed);
    const double bound = i < bounds_.size() ? bounds_[i] : std::numeric_limits<double>::infinity();
    histogram.bucket.push_back({cumulative, bound});
  }
  histogram.sample_count = cumulative;
  histogram.sample_sum = static_cast<double>(sum_.load(std::memory_order_relaxed)) * scale_;
  return histogram;
}

}  // namespace parallax::server
