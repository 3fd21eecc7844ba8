#include "bench/server/loadgen/server_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace parallax::loadgen {
namespace {

TEST(ServerMetrics, ReadsSamplesAndLeavesOutBuckets) {
  const auto samples = ParseMetricsText(
      "# HELP parallax:tokens_total Tokens.\n"
      "# TYPE parallax:tokens_total counter\n"
      "parallax:tokens_total 41\n"
      "parallax:requests_total{code=\"a b \\\" }\"} 2 1700000000\n"
      "parallax:ttft_seconds_bucket{le=\"+Inf\"} 3\n"
      "parallax:ttft_seconds_sum 1.5e-3\n"
      "parallax:running +Inf\n");
  ASSERT_TRUE(samples.ok()) << samples.status();
  EXPECT_EQ(samples->size(), 4u);
  EXPECT_EQ(samples->at("parallax:tokens_total"), 41.0);
  EXPECT_EQ(samples->at("parallax:requests_total{code=\"a b \\\" }\"}"), 2.0);
  EXPECT_EQ(samples->at("parallax:ttft_seconds_sum"), 1.5e-3);
}

TEST(ServerMetrics, RefusesWhatIsNoMetricsPage) {
  EXPECT_FALSE(ParseMetricsText("<html>\n").ok());
  EXPECT_FALSE(ParseMetricsText("name twelve\n").ok());
}

TEST(ServerMetrics, DeltaKeepsCountersThatChanged) {
  const MetricSamples before = {{"a_total", 1}, {"b_total", 5}, {"gauge", 1}};
  const MetricSamples after = {{"a_total", 4}, {"b_total", 5}, {"gauge", 9}, {"c_sum{x=\"1\"}", 2}};
  EXPECT_EQ(CounterDelta(before, after), (MetricSamples{{"a_total", 3}, {"c_sum{x=\"1\"}", 2}}));
}

}  // namespace
}  // namespace parallax::loadgen
