#include "server/application.h"

#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "server/health_monitor.h"
#include "server/metrics_pages.h"

namespace parallax::server {
namespace {

// Once no request is live, clients still have to read what was written for them: this long, or what
// is left of the grace period.
constexpr absl::Duration kFlushTime = absl::Seconds(2);
// Aborted requests end within a step; a backend that hangs must not hold up the exit.
constexpr absl::Duration kAbortTime = absl::Seconds(5);

// One thread writes some 100,000 messages a second.
int DispatcherThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 8, 1, 4);
}

}  // namespace

Application::Application(const ServerConfig& config, const Logger* logger)
    : config_(config), logger_(*logger) {}

absl::StatusOr<std::unique_ptr<Application>> Application::Start(
    const ServerConfig& config, const Logger* logger, std::function<void()> on_engine_failed,
    const ModelLoader& load_model) {
  std::unique_ptr<Application> app(new Application(config, logger));
  app->environment_.on_engine_failed = std::move(on_engine_failed);
  if (absl::Status s = app->StartAuthentication(); !s.ok()) return s;
  if (absl::Status s = app->StartEngine(load_model); !s.ok()) return s;
  if (absl::Status s = app->StartListening(); !s.ok()) return s;
  app->WarnOfOpenDoors();
  return app;
}

absl::Status Application::StartAuthentication() {
  if (config_.auth_token_file.empty()) {
    authenticator_ = Authenticator::Anonymous();
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Authenticator>> authenticator =
      Authenticator::FromFile(config_.auth_token_file);
  if (!authenticator.ok()) return authenticator.status();
  authenticator_ = *std::move(authenticator);
  return absl::OkStatus();
}

absl::Status Application::StartEngine(const ModelLoader& load_model) {
  logger_.Info("loading_model", {{"model", config_.model}});
  absl::StatusOr<LoadedModel> model = load_model(config_);
  if (!model.ok()) return model.status();
  model_ = *std::move(model);
  LogStart(*model_.runner);
  const absl::StatusOr<RequestLimits> limits = MakeRequestLimits(config_, model_.served);
  if (!limits.ok()) return limits.status();
  metrics_ = std::make_unique<ServerMetrics>(model_.served.name);
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create(MakeEngineOptions(config_, model_.served), std::move(model_.runner),
                     model_.tokenizer.get(), metrics_.get());
  if (!engine.ok()) return engine.status();
  engine_ = *std::move(engine);
  dispatcher_ = std::make_unique<WriteDispatcher>(DispatcherThreads());
  reply_dispatcher_ = std::make_unique<WriteDispatcher>(1);
  open_calls_ = std::make_unique<OpenCalls>(config_.read_timeout);
  environment_ = {.engine = engine_.get(),
                  .authenticator = authenticator_.get(),
                  .metrics = metrics_.get(),
                  .logger = &logger_,
                  .dispatcher = dispatcher_.get(),
                  .reply_dispatcher = reply_dispatcher_.get(),
                  .open_calls = open_calls_.get(),
                  .model = model_.served,
                  .limits = *limits,
                  .outbox_bytes = static_cast<size_t>(config_.outbox_bytes),
                  .log_prompts = config_.log_prompts,
                  .on_engine_failed = std::move(environment_.on_engine_failed)};
  return absl::OkStatus();
}

void Application::LogStart(const ModelRunner& runner) const {
  const DeviceStats::Start start = runner.device_stats().start;
  if (start.capture_seconds == 0.0) return;  // no GPU
  const auto text = [](double seconds) { return absl::StrFormat("%.2f", seconds); };
  logger_.Info("gpu_prepared", {{"load_seconds", text(start.load_seconds)},
                                {"tune_seconds", text(start.tune_seconds)},
                                {"capture_seconds", text(start.capture_seconds)}});
}

absl::Status Application::StartListening() {
  if (!config_.metrics_listen.empty()) {
    absl::StatusOr<std::unique_ptr<MetricsHttp>> http =
        MetricsHttp::Start(config_.metrics_listen, MetricsPages());
    if (!http.ok()) return http.status();
    metrics_http_ = *std::move(http);
  }
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc = GrpcServer::Start(config_, &environment_);
  if (!grpc.ok()) return grpc.status();
  grpc_ = *std::move(grpc);
  return absl::OkStatus();
}

std::vector<HttpPage> Application::MetricsPages() const {
  return {{.path = "/metrics",
           .content_type = kMetricsTextType,
           .content_security_policy = {},
           .body = [this] { return MetricsText(*metrics_); }},
          {.path = "/status.json",
           .content_type = "application/json",
           .content_security_policy = {},
           .body = [this] { return StatusJson(Status()); }},
          {.path = "/",
           .content_type = "text/html; charset=utf-8",
           .content_security_policy = ContentSecurityPolicy(StatusPageHtml()),
           .body = [] { return std::string(StatusPageHtml()); }}};
}

ServerStatus Application::Status() const {
  const absl::Time now = absl::Now();
  return {.uptime = now - started_,
          .health = JudgeHealth(engine_->Stats(), config_.stall_timeout, now),
          .model = &model_.served,
          .description = &engine_->model(),
          .limits = &engine_->limits(),
          .metrics = metrics_.get(),
          .problems = logger_.RecentProblems()};
}

void Application::WarnOfOpenDoors() const {
  if (!config_.metrics_listen.empty() && !IsLoopbackAddress(config_.metrics_listen)) {
    logger_.Warning("metrics_beyond_loopback",
                    {{"listen", config_.metrics_listen},
                     {"advice",
                      "everyone who reaches the port sees metrics and warnings, in the clear; let "
                      "only the monitoring's network reach it"}});
  }
  if (IsLoopbackAddress(config_.listen)) return;
  if (config_.tls.cert.empty()) {
    logger_.Warning("listening_without_tls",
                    {{"listen", config_.listen},
                     {"advice",
                      "prompts, outputs and tokens travel in the clear; set --tls-cert "
                      "and --tls-key, or put a proxy in front"}});
  }
  if (config_.tls.client_ca.empty() && !authenticator_->requires_token()) {
    logger_.Warning("listening_without_authentication",
                    {{"listen", config_.listen},
                     {"advice",
                      "everyone who reaches the port is served; set "
                      "--auth-token-file or --tls-client-ca"}});
  }
}

std::string Application::ReadyLine() const {
  return absl::StrCat("{\"event\":\"ready\",\"pid\":", getpid(), ",\"port\":", grpc_->port(),
                      ",\"admin_port\":", grpc_->admin_port(),
                      ",\"metrics_port\":", metrics_http_ != nullptr ? metrics_http_->port() : 0,
                      "}");
}

Application::StopResult Application::Stop() {
  const absl::Time deadline = absl::Now() + config_.grace_period;
  engine_->BeginDrain();
  grpc_->health().Refresh();
  logger_.Info("stopping", {{"grace_period", absl::FormatDuration(config_.grace_period)}});
  if (!engine_->AwaitDrained(deadline)) {
    logger_.Warning("grace_period_over", {});
    if (!AbortRunning()) return StopResult::kStuck;
  }
  AwaitReaders(std::max(deadline, absl::Now() + kFlushTime));
  grpc_->Shutdown(absl::Now() + kFlushTime);
  metrics_http_.reset();
  MutexLock lock(&mutex_);
  logger_.Info("stopped", {{"requests_aborted", aborted_ ? "yes" : "no"}});
  if (!engine_->Stats().health.ok()) return StopResult::kFailed;
  return aborted_ ? StopResult::kAborted : StopResult::kFinished;
}

// Cuts off whoever has not read its output by then.
void Application::AwaitReaders(absl::Time deadline) {
  if (open_calls_->AwaitClosed(deadline)) return;
  const int calls = open_calls_->CancelAll(absl::UnavailableError(
      "the server is shutting down, and the client had not taken all of its output"));
  if (calls == 0) return;  // closed just now
  logger_.Warning("clients_cut_off", {{"calls", calls}});
  MutexLock lock(&mutex_);
  aborted_ = true;
}

bool Application::AbortRunning() {
  const EngineStats stats = engine_->Stats();
  {
    MutexLock lock(&mutex_);
    aborted_ = aborted_ || stats.requests_submitted != stats.requests_finished;
  }
  engine_->AbortAll(absl::UnavailableError("the server is shutting down"));
  if (engine_->AwaitDrained(absl::Now() + kAbortTime)) {
    open_calls_->EndWait(absl::Now() + kFlushTime);
    return true;
  }
  logger_.Error("engine_stuck", {{"waited", absl::FormatDuration(kAbortTime)}});
  return false;
}

void Application::ReloadTokens() {
  const absl::Status status = authenticator_->Reload();
  if (status.ok()) {
    logger_.Info("tokens_reloaded", {});
  } else {
    logger_.Error("tokens_not_reloaded", {{"error", std::string(status.message())}});
  }
}

Application::~Application() = default;

}  // namespace parallax::server
