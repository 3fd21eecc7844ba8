#include "server/metrics.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/metrics_family.h"

namespace parallax::server {
namespace {

constexpr double kNanosecond = 1e-9;

// Fast models take a fraction of a millisecond a token: 100 us is the first bound.
constexpr double kTokenTimes[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                  0.05,   0.075,   0.1,    0.15,  0.2,    0.3,   0.4,  0.5,
                                  0.75,   1.0,     2.5,    5.0,   7.5,    10.0,  20.0, 40.0};
constexpr double kRequestTimes[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,  0.025,
                                    0.05,   0.1,     0.25,   0.5,   1.0,    2.5,   5.0,   10.0,
                                    15.0,   20.0,    30.0,   60.0,  120.0,  300.0, 600.0, 1800.0};
constexpr double kTokenCounts[] = {1,   2,    4,    8,    16,   32,    64,    128,   256,
                                   512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};
constexpr double kBatchSizes[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

int64_t Nanoseconds(absl::Duration duration) { return absl::ToInt64Nanoseconds(duration); }

double Fraction(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

}  // namespace

std::string_view RpcMethodName(RpcMethod method) {
  static constexpr std::array<std::string_view, kNumRpcMethods> kNames = {
      "Generate",     "GenerateStream", "Tokenize",     "Detokenize",
      "GetModelInfo", "Abort",          "VllmGenerate", "VllmControl"};
  return kNames[static_cast<int>(method)];
}

ServerMetrics::ServerMetrics(std::string model_name)
    : model_name_(std::move(model_name)),
      started_(absl::Now()),
      time_to_first_token_(kTokenTimes, kNanosecond),
      inter_token_latency_(kTokenTimes, kNanosecond),
      e2e_latency_(kRequestTimes, kNanosecond),
      queue_time_(kRequestTimes, kNanosecond),
      prefill_time_(kRequestTimes, kNanosecond),
      decode_time_(kRequestTimes, kNanosecond),
      step_time_(kTokenTimes, kNanosecond),
      batch_size_(kBatchSizes, 1.0),
      step_tokens_(kTokenCounts, 1.0),
      request_prompt_tokens_(kTokenCounts, 1.0),
      request_generation_tokens_(kTokenCounts, 1.0) {}

void ServerMetrics::OnRpc(RpcMethod method, grpc::StatusCode code) {
  rpcs_[static_cast<int>(method)][static_cast<int>(code)].Increment();
}

void ServerMetrics::OnFirstToken(absl::Duration since_arrival) {
  time_to_first_token_.Observe(Nanoseconds(since_arrival));
}

void ServerMetrics::OnAccepted() { accepted_.Increment(); }

void ServerMetrics::OnSubmitted(int32_t prompt_tokens) {
  submitted_.Increment();
  prompt_tokens_.Add(prompt_tokens);
  request_prompt_tokens_.Observe(prompt_tokens);
}

void ServerMetrics::OnRefused(absl::StatusCode code) {
  refused_[static_cast<int>(code)].Increment();
}

void ServerMetrics::OnInterTokenLatency(absl::Duration gap) {
  inter_token_latency_.Observe(Nanoseconds(gap));
}

void ServerMetrics::OnStep(const StepStats& stats) {
  step_time_.Observe(Nanoseconds(stats.duration));
  batch_size_.Observe(stats.num_sequences);
  step_tokens_.Observe(stats.prefill_tokens + stats.decode_tokens);
  step_prefill_tokens_.Add(stats.prefill_tokens);
  step_decode_tokens_.Add(stats.decode_tokens);
  generation_tokens_.Add(stats.tokens_generated);
  preemptions_.Add(stats.preemptions);
  prefix_queries_.Add(stats.prefix_cache_query_tokens);
  prefix_hits_.Add(stats.prefix_cache_hit_tokens);
}

void ServerMetrics::OnGauges(const EngineGauges& gauges) {
  running_.Set(gauges.requests_running);
  pages_total_.Set(gauges.pages_total);
  pages_used_.Set(gauges.pages_used);
  pages_cached_.Set(gauges.pages_cached);
  probe_bytes_total_.Set(gauges.probe_state_bytes_total);
  probe_bytes_used_.Set(gauges.probe_state_bytes_used);
  device_.Set(gauges.device);
}

void ServerMetrics::OnStarted(const RequestTimings& timings) {
  queue_time_.Observe(Nanoseconds(timings.queue));
  prefill_time_.Observe(Nanoseconds(timings.prefill));
}

void ServerMetrics::OnFinished(const FinishedRequest& request) {
  finished_[static_cast<int>(request.reason)].Increment();
  e2e_latency_.Observe(Nanoseconds(request.e2e_latency));
  request_generation_tokens_.Observe(request.completion_tokens);
  if (request.first_token_seen) decode_time_.Observe(Nanoseconds(request.timings.decode));
}

std::vector<prometheus::MetricFamily> ServerMetrics::Collect() const {
  Families families;
  CollectTimes(&families);
  CollectSizes(&families);
  CollectCounters(&families);
  CollectGauges(&families);
  device_.Collect(Labelled(), &families);
  CollectFinished(&families);
  CollectRefused(&families);
  CollectRpcs(&families);
  return families;
}

void ServerMetrics::CollectTimes(Families* families) const {
  AddHistogram("parallax:time_to_first_token_seconds",
               "Arrival of a call until its first token is handed to gRPC; of a call that does not "
               "stream, until it is there.",
               time_to_first_token_, families);
  AddHistogram("parallax:inter_token_latency_seconds",
               "Between two consecutive tokens of one choice.", inter_token_latency_, families);
  AddHistogram("parallax:e2e_request_latency_seconds", "Arrival to end of the request.",
               e2e_latency_, families);
  AddHistogram("parallax:request_queue_time_seconds",
               "Arrival to first scheduled; counted with the request's first token.", queue_time_, families);
  AddHistogram("parallax:request_prefill_time_seconds",
               "First scheduled to first token.", prefill_time_,
               families);
  AddHistogram("parallax:request_decode_time_seconds",
               "First to last token, of requests that had a token.", decode_time_, families);
  AddHistogram(
      "parallax:step_time_seconds",
      "One step of the engine: from its launch, or the end of the one before, to its results.",
      step_time_, families);
}

void ServerMetrics::CollectSizes(Families* families) const {
  AddHistogram("parallax:batch_size", "Sequences in a step.", batch_size_, families);
  AddHistogram("parallax:step_tokens", "Token rows in a step, prefill and decode.", step_tokens_,
               families);
  AddHistogram("parallax:request_prompt_tokens", "Prompt tokens of an accepted request.",
               request_prompt_tokens_, families);
  AddHistogram("parallax:request_generation_tokens",
               "Tokens generated for a request, all choices, when it ended.",
               request_generation_tokens_, families);
}

void ServerMetrics::CollectCounters(Families* families) const {
  AddCounter("parallax:requests_submitted_total", "Requests accepted by the engine.", submitted_,
             families);
  AddCounter("parallax:prompt_tokens_total", "Prompt tokens of accepted requests.", prompt_tokens_,
             families);
  AddCounter("parallax:generation_tokens_total", "Tokens generated.", generation_tokens_, families);
  AddCounter("parallax:step_prefill_tokens_total",
             "Token rows of steps that read a prompt, or what a preempted sequence had.",
             step_prefill_tokens_, families);
  AddCounter("parallax:step_decode_tokens_total",
             "Token rows of steps that are a running sequence's last token.", step_decode_tokens_,
             families);
  AddCounter("parallax:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
             prefix_queries_, families);
  AddCounter("parallax:prefix_cache_hits_total", "Of them, found.", prefix_hits_, families);
  AddCounter("parallax:num_preemptions_total", "Sequences preempted for want of KV pages.",
             preemptions_, families);
}

int64_t ServerMetrics::Finished() const {
  int64_t finished = 0;
  for (const AtomicCounter& counter : finished_) finished += counter.value();
  return finished;
}

// Not the engine's own level, which stands still as long as a step lasts or hangs: what was
// accepted meanwhile waits all the same.
double ServerMetrics::Waiting() const {
  const int64_t live = accepted_.value() - Finished();
  return static_cast<double>(std::max<int64_t>(0, live - running_.value()));
}

void ServerMetrics::CollectGauges(Families* families) const {
  const auto add = [&](std::string_view name, std::string_view help, const AtomicGauge& gauge) {
    AddGauge(name, help, static_cast<double>(gauge.value()), families);
  };
  AddGauge(
      "parallax:start_time_seconds",
      "When this process had loaded its model, in Unix time: another number is another process.",
      absl::ToDoubleSeconds(started_ - absl::UnixEpoch()), families);
  add("parallax:num_requests_running", "Requests that hold KV pages.", running_);
  AddGauge("parallax:num_requests_waiting", "Requests in the queue.", Waiting(), families);
  add("parallax:kv_pages", "KV pages of the cache.", pages_total_);
  add("parallax:kv_pages_used", "KV pages that a sequence references.", pages_used_);
  add("parallax:kv_pages_cached", "KV pages kept for a prefix hit, reusable at any time.",
      pages_cached_);
  AddGauge("parallax:kv_cache_usage_perc", "KV pages used; 1 means all of them.",
           Fraction(pages_used_.value(), pages_total_.value()), families);
  add("parallax:probe_state_bytes", "Size of the probe-state pool.", probe_bytes_total_);
  add("parallax:probe_state_bytes_used",
      "Of it, used by the last step. Always 0 on a GPU, which does not tell.", probe_bytes_used_);
}

void ServerMetrics::CollectFinished(Families* families) const {
  auto family = Family("parallax:request_success_total",
                       "Accepted requests that ended, by how: each is counted once.",
                       prometheus::MetricType::Counter);
  for (int reason = 0; reason < kNumFinishReasons; ++reason) {
    prometheus::ClientMetric metric = Labelled();
    metric.label.push_back({"finished_reason", std::string(FinishReasonName(static_cast<FinishReason>(reason)))});
    metric.counter.value = static_cast<double>(finished_[reason].value());
    family.metric.push_back(std::move(metric));
  }
  families->push_back(std::move(family));
}

void ServerMetrics::CollectRefused(Families* families) const {
  auto family =
      Family("parallax:requests_refused_total", "Requests that the engine did not accept, by code.",
             prometheus::MetricType::Counter);
  // Also those at 0: the rate of a series that begins with its first refusals does not have them.
  for (int code = 0; code < kNumStatusCodes; ++code) {
    if (code == grpc::StatusCode::OK) continue;  // refuses nothing
    prometheus::ClientMetric metric = Labelled();
    metric.label.push_back(
        {"code", std::string(StatusCodeName(static_cast<grpc::StatusCode>(code)))});
    metric.counter.value = static_cast<double>(refused_[code].value());
    family.metric.push_back(std::move(metric));
  }
  families->push_back(std::move(family));
}

void ServerMetrics::CollectRpcs(Families* families) const {
  auto family = Family("parallax:grpc_requests_total",
                       "Calls of InferenceService and VllmEngine, by method and by the code they "
                       "ended with.",
                       prometheus::MetricType::Counter);
  // Also those at 0, as above: a burst of errors between two scrapes must raise an alert.
  for (int method = 0; method < kNumRpcMethods; ++method) {
    for (int code = 0; code < kNumStatusCodes; ++code) {
      prometheus::ClientMetric metric = Labelled();
      metric.label.push_back(
          {"method", std::string(RpcMethodName(static_cast<RpcMethod>(method)))});
      metric.label.push_back(
          {"code", std::string(StatusCodeName(static_cast<grpc::StatusCode>(code)))});
      metric.counter.value = static_cast<double>(rpcs_[method][code].value());
      family.metric.push_back(std::move(metric));
    }
  }
  families->push_back(std::move(family));
}

prometheus::ClientMetric ServerMetrics::Labelled() const {
  prometheus::ClientMetric metric;
  metric.label.push_back({"model_name", model_name_});
  return metric;
}

void ServerMetrics::AddHistogram(std::string_view name, std::string_view help,
                                 const AtomicHistogram& histogram, Families* families) const {
  auto family = Family(name, help, prometheus::MetricType::Histogram);
  family.metric.push_back(Labelled());
  family.metric.back().histogram = histogram.Collect();
  families->push_back(std::move(family));
}

void ServerMetrics::AddCounter(std::string_view name, std::string_view help,
                               const AtomicCounter& counter, Families* families) const {
  auto family = Family(name, help, prometheus::MetricType::Counter);
  family.metric.push_back(Labelled());
  family.metric.back().counter.value = static_cast<double>(counter.value());
  families->push_back(std::move(family));
}

void ServerMetrics::AddGauge(std::string_view name, std::string_view help, double value,
                             Families* families) const {
  auto family = Family(name, help, prometheus::MetricType::Gauge);
  family.metric.push_back(Labelled());
  family.metric.back().gauge.value = value;
  families->push_back(std::move(family));
}

}  // namespace parallax::server
