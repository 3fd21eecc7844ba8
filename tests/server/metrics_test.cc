#include "server/metrics.h"

#include <map>
#include <string>

#include "gtest/gtest.h"
#include "server/metrics_pages.h"

namespace parallax::server {
namespace {

// The value on the line that begins with `series`; -1 if there is none.
double Value(const std::string& text, const std::string& series) {
  const size_t begin = text.find("\n" + series + " ");
  return begin == std::string::npos ? -1 : std::stod(text.substr(begin + series.size() + 2));
}

TEST(AtomicHistogramTest, BoundsAreInclusiveAndCumulative) {
  const double bounds[] = {0.001, 0.01};
  AtomicHistogram histogram(bounds, 1e-9);
  for (const int64_t ns : {999'999, 1'000'000, 1'000'001, 10'000'000, 500'000'000}) {
    histogram.Observe(ns);
  }
  const auto collected = histogram.Collect();
  ASSERT_EQ(collected.bucket.size(), 3u);
  EXPECT_EQ(collected.bucket[0].cumulative_count, 2u);
  EXPECT_EQ(collected.bucket[1].cumulative_count, 4u);
  EXPECT_EQ(collected.bucket[2].cumulative_count, 5u);
  EXPECT_EQ(collected.sample_count, 5u);
  EXPECT_NEAR(collected.sample_sum, 0.513, 1e-9);
}

TEST(ServerMetricsTest, CountsWhatTheEngineReports) {
  ServerMetrics metrics("tiny");
  metrics.OnSubmitted(10);
  metrics.OnSubmitted(20);
  metrics.OnRefused(absl::StatusCode::kResourceExhausted);
  metrics.OnFirstToken(
      {.time_to_first_token = absl::Microseconds(90), .queue_time = {}, .prefill_time = {}});
  metrics.OnInterTokenLatency(absl::Microseconds(200));
  metrics.OnStep({.duration = absl::Milliseconds(1),
                  .num_sequences = 3,
                  .prefill_tokens = 10,
                  .decode_tokens = 2,
                  .tokens_generated = 3,
                  .preemptions = 1,
                  .prefix_cache_query_tokens = 30,
                  .prefix_cache_hit_tokens = 5});
  metrics.OnGauges(
      {.requests_running = 2, .requests_waiting = 7, .pages_total = 8, .pages_used = 2});
  metrics.OnFinished(
      {.reason = FinishReason::kLength, .completion_tokens = 3, .e2e_latency = {}, .timings = {}});
  metrics.OnFinished({.reason = FinishReason::kCancelled, .e2e_latency = {}, .timings = {}});
  metrics.OnRpc(RpcMethod::kGenerateStream, grpc::StatusCode::CANCELLED);
  const std::string text = MetricsText(metrics);
  const std::string labels = "{model_name=\"tiny\"}";
  EXPECT_EQ(Value(text, "parallax:requests_submitted_total" + labels), 2);
  EXPECT_EQ(Value(text, "parallax:prompt_tokens_total" + labels), 30);
  EXPECT_EQ(Value(text, "parallax:generation_tokens_total" + labels), 3);
  EXPECT_EQ(Value(text, "parallax:num_preemptions_total" + labels), 1);
  EXPECT_EQ(Value(text, "parallax:prefix_cache_queries_total" + labels), 30);
  EXPECT_EQ(Value(text, "parallax:prefix_cache_hits_total" + labels), 5);
  EXPECT_EQ(Value(text, "parallax:num_requests_running" + labels), 2);
  EXPECT_EQ(Value(text, "parallax:num_requests_waiting" + labels), 7);
  EXPECT_EQ(Value(text, "parallax:kv_cache_usage_perc" + labels), 0.25);
  EXPECT_EQ(Value(text, "parallax:step_tokens_sum" + labels), 12);
  EXPECT_EQ(
      Value(text, "parallax:time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"0.0001\"}"),
      1);
  const auto finished = [&](const std::string& reason) {
    return Value(text, "parallax:request_success_total{model_name=\"tiny\",finished_reason=\"" +
                           reason + "\"}");
  };
  EXPECT_EQ(finished("length"), 1);
  EXPECT_EQ(finished("cancelled"), 1);
  EXPECT_EQ(finished("stop"), 0);
  EXPECT_EQ(Value(text,
                  "parallax:requests_refused_total{model_name=\"tiny\",code="
                  "\"RESOURCE_EXHAUSTED\"}"),
            1);
  EXPECT_EQ(Value(text,
                  "parallax:grpc_requests_total{model_name=\"tiny\",method="
                  "\"GenerateStream\",code=\"CANCELLED\"}"),
            1);
}

}  // namespace
}  // namespace parallax::server
