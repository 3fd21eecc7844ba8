#include "bench/server/loadgen/experiment.h"

#include <chrono>
#include <iterator>
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

// A replay without a duration gets a window with the trace's last line in it; its end is open.
absl::Status FitToTrace(const Workload& workload, RunOptions* run) {
  if (!IsTraceReplay(*run)) return absl::OkStatus();
  if (!workload.has_timed_trace()) {
    return absl::InvalidArgumentError("arrival: trace, but there is no trace with timestamps");
  }
  if (run->duration_seconds > 0.0) return absl::OkStatus();
  run->duration_seconds = *workload.trace().back().timestamp_seconds + 1.0 - run->warmup_seconds;
  return ValidateRunOptions(*run);
}

}  // namespace

int32_t NumConnections(const ExperimentOptions& options) {
  return options.connections != 0 ? options.connections
                                  : DefaultConnections(options.run.concurrency);
}

nlohmann::json OptionsToJson(const ExperimentOptions& options) {
  const WorkloadOptions& workload = options.workload;
  nlohmann::json json = {{"connections", NumConnections(options)},
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
    json["arrival_seed"] = options.run.arrival_seed;
    if (arrivals.kind == ArrivalKind::kGamma) json["burstiness"] = arrivals.burstiness;
    if (arrivals.kind == ArrivalKind::kRamp) {
      json["rate_end"] = arrivals.rate_end;
      json["ramp_seconds"] = arrivals.ramp_seconds;
    }
  }
  return json;
}

absl::StatusOr<std::unique_ptr<Experiment>> Experiment::Connect(
    const client::ChannelOptions& channel) {
  std::unique_ptr<Experiment> experiment(new Experiment(channel));
  if (absl::Status status = experiment->OpenConnections(1); !status.ok()) return status;
  return experiment;
}

absl::Status Experiment::OpenConnections(int32_t count) {
  if (count < 1 || count > kMaxConnections) {
    return absl::InvalidArgumentError(
        absl::StrCat("connections: ", count, " is outside [1, ", kMaxConnections, "]"));
  }
  while (std::ssize(channels_) < count) {
    client::ChannelOptions options = channel_;
    options.connection_id = static_cast<int>(channels_.size()) + 1;
    std::shared_ptr<grpc::Channel> channel;
    const grpc::Status status = client::CreateChannel(options, &channel);
    if (!status.ok()) return ToAbsl(status);
    absl::StatusOr<v1::GetModelInfoResponse> info =
        AskModelInfo(channel, channel_.target, channel_.token);
    if (!info.ok()) return info.status();
    channels_.push_back(std::move(channel));
    KeepModelInfo(*info);
  }
  return absl::OkStatus();
}

void Experiment::KeepModelInfo(const v1::GetModelInfoResponse& info) {
  vocab_size_ = info.vocab_size();
  max_context_tokens_ = info.max_context_tokens();
  streams_per_connection_ = info.max_concurrent_streams();
  model_ = {{"name", info.name()},
            {"device", info.device()},
            {"num_parameters", info.num_parameters()},
            {"probe", info.probe()},
            {"server_version", info.server_version()}};
}

absl::StatusOr<nlohmann::json> Experiment::Run(
    const ExperimentOptions& asked, const std::function<void(const Progress&)>& on_progress) {
  if (absl::Status status = ValidateRunOptions(asked.run); !status.ok()) return status;
  ExperimentOptions options = asked;
  options.connections = NumConnections(asked);
  if (absl::Status status = OpenConnections(options.connections); !status.ok()) return status;
  const std::vector<std::shared_ptr<grpc::Channel>> channels(
      channels_.begin(), channels_.begin() + options.connections);
  absl::StatusOr<Workload> workload =
      Workload::Create(options.workload, vocab_size_, max_context_tokens_);
  if (!workload.ok()) return workload.status();
  if (absl::Status status = FitToTrace(*workload, &options.run); !status.ok()) return status;

  RunIdentity identity;
  identity.label = options.label;
  identity.started_at = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  identity.target = options.channel.target;
  identity.model = model_;
  identity.options = OptionsToJson(options);
  identity.annotations = options.annotations;

  absl::StatusOr<Histogram> bare_call = TimeBareCalls(channels, options.channel.token);
  if (!bare_call.ok()) return bare_call.status();

  absl::StatusOr<MetricSamples> before = MetricSamples();
  if (!options.metrics_address.empty()) before = ScrapeMetrics(options.metrics_address);
  if (!before.ok()) return before.status();

  LoadDriver driver(ConnectionPool(channels, streams_per_connection_), options.run,
                    *std::move(workload));
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
