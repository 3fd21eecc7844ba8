#include "bench/server/loadgen/experiment.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/server/loadgen/bare_call.h"
#include "bench/server/loadgen/result_format.h"
#include "bench/server/loadgen/server_metrics.h"
#include "grpcpp/client_context.h"
#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::loadgen {
namespace {

constexpr std::chrono::seconds kConnectTimeout{10};

absl::Status ToAbsl(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

absl::StatusOr<v1::GetModelInfoResponse> AskModelInfo(const std::shared_ptr<grpc::Channel>& channel,
                                                      const std::string& target,
                                                      const std::string& token) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kConnectTimeout);
  context.set_wait_for_ready(true);
  client::AddToken(token, &context);
  v1::GetModelInfoResponse info;
  const grpc::Status status = v1::InferenceService::NewStub(channel)->GetModelInfo(
      &context, v1::GetModelInfoRequest(), &info);
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::UnavailableError(
        absl::StrCat("no answer from ", target, " within ", kConnectTimeout.count(), " s"));
  }
  if (!status.ok()) return ToAbsl(status);
  return info;
}

const char* ArrivalName(ArrivalKind kind) {
  switch (kind) {
    case ArrivalKind::kConstant:
      return "constant";
    case ArrivalKind::kPoisson:
      return "poisson";
    case ArrivalKind::kGamma:
      return "gamma";
    case ArrivalKind::kRamp:
      return "ramp";
    case ArrivalKind::kTrace:
      return "trace";
  }
  return "";
}

}  // namespace

nlohmann::json OptionsToJson(const ExperimentOptions& options) {
  const WorkloadOptions& workload = options.workload;
  nlohmann::json json = {{"connections", options.connections},
                         {"warmup_seconds", options.run.warmup_seconds},
                         {"duration_seconds", options.run.duration_seconds},
                         {"drain_seconds", options.run.drain_seconds},
                         {"max_lag_ms", options.run.max_lag_ms},
                         {"max_requests", options.run.max_requests},
                         {"prompt_tokens", workload.prompt_tokens},
                         {"output_tokens", workload.output_tokens},
                         {"shared_prefix_share", workload.shared_prefix_share},
                         {"shared_prefix_tokens", workload.shared_prefix_tokens},
                         {"shared_prefix_groups", workload.shared_prefix_groups},
                         {"cancel_share", workload.cancel_share},
                         {"trace_file", workload.trace_file},
                         {"seed", workload.seed}};
  if (options.run.slo.any()) {
    json["slo_ms"] = {{"ttft", options.run.slo.ttft_ms},
                      {"tpot", options.run.slo.tpot_ms},
                      {"e2e", options.run.slo.e2e_ms}};
  }
  if (options.run.concurrency > 0) json["concurrency"] = options.run.concurrency;
  if (options.run.arrivals.has_value()) {
    const ArrivalOptions& arrivals = *options.run.arrivals;
    json["arrival"] = ArrivalName(arrivals.kind);
    json["rate"] = arrivals.rate;
    if (arrivals.kind == ArrivalKind::kGamma) json["burstiness"] = arrivals.burstiness;
    if (arrivals.kind == ArrivalKind::kRamp) {
      json["rate_end"] = arrivals.rate_end;
      json["ramp_seconds"] = arrivals.ramp_seconds;
    }
  }
  return json;
}

absl::StatusOr<std::unique_ptr<Experiment>> Experiment::Connect(const ExperimentOptions& options) {
  if (options.connections < 1 || options.connections > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("connections: ", options.connections, " is outside [1, 1024]"));
  }
  std::unique_ptr<Experiment> experiment(new Experiment());
  for (int32_t i = 0; i < options.connections; ++i) {
    client::ChannelOptions channel_options = options.channel;
    channel_options.connection_id = i + 1;
    std::shared_ptr<grpc::Channel> channel;
    const grpc::Status status = client::CreateChannel(channel_options, &channel);
    if (!status.ok()) return ToAbsl(status);
    experiment->channels_.push_back(std::move(channel));
  }
  // Every connection is made before the first request is timed.
  for (const std::shared_ptr<grpc::Channel>& channel : experiment->channels_) {
    absl::StatusOr<v1::GetModelInfoResponse> info =
        AskModelInfo(channel, options.channel.target, options.channel.token);
    if (!info.ok()) return info.status();
    experiment->vocab_size_ = info->vocab_size();
    experiment->max_context_tokens_ = info->max_context_tokens();
    experiment->model_ = {{"name", info->name()},
                          {"device", info->device()},
                          {"num_parameters", info->num_parameters()},
                          {"probe", info->probe()},
                          {"server_version", info->server_version()}};
  }
  return experiment;
}

absl::StatusOr<nlohmann::json> Experiment::Run(
    const ExperimentOptions& options, const std::function<void(const Progress&)>& on_progress) {
  if (absl::Status status = ValidateRunOptions(options.run); !status.ok()) return status;
  absl::StatusOr<Workload> workload =
      Workload::Create(options.workload, vocab_size_, max_context_tokens_);
  if (!workload.ok()) return workload.status();
  const std::optional<ArrivalOptions>& arrivals = options.run.arrivals;
  if (arrivals.has_value() && arrivals->kind == ArrivalKind::kTrace &&
      !workload->has_timed_trace()) {
    return absl::InvalidArgumentError("arrival: trace, but there is no trace with timestamps");
  }

  RunIdentity identity;
  identity.label = options.label;
  identity.started_at = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  identity.target = options.channel.target;
  identity.model = model_;
  identity.options = OptionsToJson(options);
  identity.annotations = options.annotations;

  absl::StatusOr<Histogram> bare_call = TimeBareCalls(channels_, options.channel.token);
  if (!bare_call.ok()) return bare_call.status();

  absl::StatusOr<MetricSamples> before = MetricSamples();
  if (!options.metrics_address.empty()) before = ScrapeMetrics(options.metrics_address);
  if (!before.ok()) return before.status();

  LoadDriver driver(channels_, options.run, *std::move(workload));
  {
    MutexLock lock(&mutex_);
    if (stop_) return absl::CancelledError("stopped");
    driver_ = &driver;
  }
  absl::StatusOr<RunResult> result = driver.Run(on_progress);
  {
    MutexLock lock(&mutex_);
    driver_ = nullptr;
  }
  if (!result.ok()) return result.status();
  result->bare_call = *std::move(bare_call);

  MetricSamples delta;
  if (!options.metrics_address.empty()) {
    absl::StatusOr<MetricSamples> after = ScrapeMetrics(options.metrics_address);
    if (!after.ok()) return after.status();
    delta = CounterDelta(*before, *after);
  }
  return ResultToJson(identity, options.run, *result, delta);
}

void Experiment::RequestStop() {
  MutexLock lock(&mutex_);
  stop_ = true;
  if (driver_ != nullptr) driver_->RequestStop();
}

}  // namespace parallax::loadgen
