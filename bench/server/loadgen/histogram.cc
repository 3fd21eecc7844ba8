#include "bench/server/loadgen/histogram.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace parallax::loadgen {
namespace {

// Values below 2^kBits have a bucket each; above, every power of two is cut into 2^(kBits-1).
constexpr int kBits = 11;
constexpr int kHalf = 1 << (kBits - 1);
constexpr int kBucketsPerRange = 8;  // divides kHalf: no range spans two powers of two

}  // namespace

Histogram::Histogram() : counts_(IndexOf(kMaxValueNs) + 1) {}

int Histogram::IndexOf(int64_t value_ns) {
  const int width = std::bit_width(static_cast<uint64_t>(value_ns));
  const int shift = std::max(0, width - kBits);
  return shift * kHalf + static_cast<int>(value_ns >> shift);
}

int64_t Histogram::HighestValueAt(int index) {
  const int shift = std::max(0, index / kHalf - 1);
  const int64_t mantissa = index - shift * kHalf;
  return ((mantissa + 1) << shift) - 1;
}

void Histogram::Record(int64_t value_ns) {
  const int64_t value = std::clamp<int64_t>(value_ns, 1, kMaxValueNs);
  ++counts_[IndexOf(value)];
  min_ = count_ == 0 ? value : std::min(min_, value);
  max_ = std::max(max_, value);
  sum_ += static_cast<double>(value);
  ++count_;
}

void Histogram::Merge(const Histogram& other) {
  if (other.count_ == 0) return;
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
  sum_ += other.sum_;
  count_ += other.count_;
}

int64_t Histogram::ValueAtQuantile(double quantile) const {
  if (count_ == 0) return 0;
  const double share = std::clamp(quantile, 0.0, 1.0);
  const int64_t target =
      std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(count_) + 0.5));
  int64_t seen = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen >= target) return HighestValueAt(static_cast<int>(i));
  }
  return max_;
}

std::vector<std::pair<int64_t, int64_t>> Histogram::Ranges() const {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  const int num_buckets = static_cast<int>(counts_.size());
  for (int begin = 0; begin < num_buckets; begin += kBucketsPerRange) {
    const int end = std::min(begin + kBucketsPerRange, num_buckets);
    const int64_t count =
        std::accumulate(counts_.begin() + begin, counts_.begin() + end, int64_t{0});
    if (count > 0) ranges.emplace_back(HighestValueAt(end - 1), count);
  }
  return ranges;
}

}  // namespace parallax::loadgen
