#include "server/metrics.h"

#include <map>
#include <string>

#include "absl/time/clock.h"
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

// Every number is another, so that none can stand in another's place.
TEST(DeviceMetricsTest, ShowsEachNumberUnderItsName) {
  EngineGauges gauges;
  gauges.device = {.weight_bytes = 1001,
                   .activation_bytes = 1002,
                   .probe_state_bytes = 1003,
                   .kv_cache_bytes = 1004,
                   .graph_bytes = 1005,
                   .graph_replays = {.steps = 11, .seconds = 1.25, .bytes = 13e3, .flops = 14e9},
                   .eager_steps = {.steps = 21, .seconds = 2.25, .bytes = 23e3, .flops = 24e9},
                   .peak_bytes_per_second = 31e12,
                   .peak_flops_per_second = 32e12,
                   .start = {.load_seconds = 4.5, .tune_seconds = 5.5, .capture_seconds = 6.5}};
  ServerMetrics metrics("tiny");
  metrics.OnGauges(gauges);
  const std::string text = MetricsText(metrics);
  const auto value = [&](const std::string& name, const std::string& label) {
    return Value(text, "parallax:gpu_" + name + "{model_name=\"tiny\"" + label + "}");
  };
  const std::map<std::string, double> uses = {{"weights", 1001},
                                              {"activations", 1002},
                                              {"probe_states", 1003},
                                              {"kv_cache", 1004},
                                              {"graphs", 1005}};
  for (const auto& [use, bytes] : uses) {
    EXPECT_EQ(value("memory_bytes", ",use=\"" + use + "\""), bytes) << use;
  }
  const std::string graph = ",kind=\"graph\"";
  const std::string eager = ",kind=\"eager\"";
  EXPECT_EQ(value("steps_total", graph), 11);
  EXPECT_EQ(value("step_seconds_total", graph), 1.25);
  EXPECT_EQ(value("step_bytes_total", graph), 13e3);
  EXPECT_EQ(value("step_flops_total", graph), 14e9);
  EXPECT_EQ(value("steps_total", eager), 21);
  EXPECT_EQ(value("step_seconds_total", eager), 2.25);
  EXPECT_EQ(value("step_bytes_total", eager), 23e3);
  EXPECT_EQ(value("step_flops_total", eager), 24e9);
  EXPECT_EQ(value("peak_bytes_per_second", ""), 31e12);
  EXPECT_EQ(value("peak_flops_per_second", ""), 32e12);
  EXPECT_EQ(value("start_seconds", ",phase=\"load\""), 4.5);
  EXPECT_EQ(value("start_seconds", ",phase=\"tune\""), 5.5);
  EXPECT_EQ(value("start_seconds", ",phase=\"capture\""), 6.5);
}

TEST(DeviceMetricsTest, AreAbsentWithoutAGpu) {
  ServerMetrics metrics("tiny");
  metrics.OnGauges({});
  EXPECT_EQ(MetricsText(metrics).find("parallax:gpu_"), std::string::npos);
}

TEST(ServerMetricsTest, TellsWhenItWasMade) {
  const double before = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  const ServerMetrics metrics("tiny");
  const double started =
      Value(MetricsText(metrics), "parallax:start_time_seconds{model_name=\"tiny\"}");
  EXPECT_NEAR(started, before, 1.0);  // all digits of it
}

TEST(ServerMetricsTest, CountsWhatTheEngineReports) {
  ServerMetrics metrics("tiny");
  for (int i = 0; i < 11; ++i) metrics.OnAccepted();
  metrics.OnSubmitted(10);
  metrics.OnSubmitted(20);
  metrics.OnRefused(absl::StatusCode::kResourceExhausted);
  metrics.OnFirstToken(absl::Microseconds(90));
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
      {.requests_running = 2, .requests_waiting = 0, .pages_total = 8, .pages_used = 2});
  metrics.OnStarted({.queue = absl::Milliseconds(5), .prefill = absl::Milliseconds(7)});
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
  EXPECT_EQ(Value(text, "parallax:request_queue_time_seconds_count" + labels), 1);
  EXPECT_NEAR(Value(text, "parallax:request_queue_time_seconds_sum" + labels), 5e-3, 1e-9);
  EXPECT_NEAR(Value(text, "parallax:request_prefill_time_seconds_sum" + labels), 7e-3, 1e-9);
  EXPECT_EQ(Value(text, "parallax:request_decode_time_seconds_count" + labels), 0);
  EXPECT_EQ(Value(text, "parallax:num_requests_running" + labels), 2);
  // Eleven came, two ended, two run: also those that the engine has not seen yet wait.
  EXPECT_EQ(Value(text, "parallax:num_requests_waiting" + labels), 7);
  EXPECT_EQ(Value(text, "parallax:kv_cache_usage_perc" + labels), 0.25);
  EXPECT_EQ(Value(text, "parallax:step_tokens_sum" + labels), 12);
  EXPECT_EQ(Value(text, "parallax:step_prefill_tokens_total" + labels), 10);
  EXPECT_EQ(Value(text, "parallax:step_decode_tokens_total" + labels), 2);
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

// Prometheus takes a rate from the samples of one series: had it none before the first refusal or
// error, a burst of them between two scrapes would be a rate of 0.
TEST(ServerMetricsTest, CountsEveryCodeFromZero) {
  const std::string text = MetricsText(ServerMetrics("tiny"));
  for (int code = 0; code < kNumStatusCodes; ++code) {
    const std::string name(StatusCodeName(static_cast<grpc::StatusCode>(code)));
    const std::string label = ",code=\"" + name + "\"}";
    const std::string refused = "parallax:requests_refused_total{model_name=\"tiny\"" + label;
    EXPECT_EQ(Value(text, refused), name == "OK" ? -1 : 0) << refused;
    for (int method = 0; method < kNumRpcMethods; ++method) {
      const std::string calls = "parallax:grpc_requests_total{model_name=\"tiny\",method=\"" +
                                std::string(RpcMethodName(static_cast<RpcMethod>(method))) + "\"" +
                                label;
      EXPECT_EQ(Value(text, calls), 0) << calls;
    }
  }
}

}  // namespace
}  // namespace parallax::server
