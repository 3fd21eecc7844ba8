#include "bench/server/loadgen/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <vector>

#include "nlohmann/json.hpp"

namespace parallax::loadgen {
namespace {

// Expected values come from another implementation: see testdata/.
TEST(Histogram, ReadsTheSameQuantilesAsHdrHistogram) {
  std::ifstream file("tests/bench/loadgen/testdata/histogram_expectations.json");
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 5u);
  for (const nlohmann::json& expected : cases) {
    Histogram histogram;
    for (const int64_t value : expected["values"]) histogram.Record(value);
    for (const nlohmann::json& pair : expected["quantiles"]) {
      EXPECT_EQ(histogram.ValueAtQuantile(pair[0]), pair[1].get<int64_t>()) << "q = " << pair[0];
    }
    EXPECT_EQ(histogram.max_ns(), expected["max"].get<int64_t>());
    EXPECT_EQ(histogram.min_ns(), expected["min"].get<int64_t>());
  }
}

TEST(Histogram, IsWithinATenthOfAPercentOfTheExactQuantile) {
  std::mt19937_64 random(17);
  std::lognormal_distribution<double> latency(14.0, 1.5);
  Histogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 20000; ++i) {
    values.push_back(static_cast<int64_t>(latency(random)) + 1);
    histogram.Record(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double quantile : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const double exact =
        static_cast<double>(values[static_cast<size_t>(quantile * values.size() + 0.5) - 1]);
    const double read = static_cast<double>(histogram.ValueAtQuantile(quantile));
    EXPECT_GE(read, exact);
    EXPECT_LE(read, exact * (1.0 + 1.0 / 1024));
  }
}

TEST(Histogram, MergeEqualsRecordingEverythingInOne) {
  std::mt19937_64 random(3);
  std::uniform_int_distribution<int64_t> value(1, 100'000'000);
  Histogram parts[3];
  Histogram whole;
  for (int i = 0; i < 3000; ++i) {
    const int64_t v = value(random);
    parts[i % 3].Record(v);
    whole.Record(v);
  }
  Histogram merged;
  for (const Histogram& part : parts) merged.Merge(part);
  EXPECT_EQ(merged.Ranges(), whole.Ranges());
  for (const double quantile : {0.01, 0.3, 0.5, 0.9, 0.999}) {
    EXPECT_EQ(merged.ValueAtQuantile(quantile), whole.ValueAtQuantile(quantile));
  }
  EXPECT_EQ(merged.count(), whole.count());
  EXPECT_EQ(merged.min_ns(), whole.min_ns());
  EXPECT_EQ(merged.max_ns(), whole.max_ns());
  EXPECT_DOUBLE_EQ(merged.mean_ns(), whole.mean_ns());
}

TEST(Histogram, RangesHoldEveryValueOnceAndAreNarrow) {
  std::mt19937_64 random(23);
  std::uniform_real_distribution<double> exponent(2.0, 12.0);
  Histogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 5000; ++i) {
    values.push_back(static_cast<int64_t>(std::pow(10.0, exponent(random))));
    histogram.Record(values.back());
  }
  std::sort(values.begin(), values.end());
  size_t seen = 0;
  int64_t last = 0;
  for (const auto& [highest, count] : histogram.Ranges()) {
    EXPECT_GT(highest, last);
    for (const size_t end = seen + count; seen < end; ++seen) {
      EXPECT_GT(values[seen], last);
      EXPECT_LE(values[seen], highest);
      EXPECT_LE(highest - values[seen], std::max<int64_t>(8, values[seen] / 128));
    }
    last = highest;
  }
  EXPECT_EQ(seen, values.size());
}

TEST(Histogram, ClampsWhatIsOutOfRange) {
  Histogram histogram;
  histogram.Record(-5);
  histogram.Record(2 * Histogram::kMaxValueNs);
  EXPECT_EQ(histogram.count(), 2);
  EXPECT_EQ(histogram.min_ns(), 1);
  EXPECT_EQ(histogram.max_ns(), Histogram::kMaxValueNs);
}

TEST(Histogram, EmptyReadsZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.ValueAtQuantile(0.5), 0);
  EXPECT_EQ(histogram.mean_ns(), 0.0);
}

}  // namespace
}  // namespace parallax::loadgen
