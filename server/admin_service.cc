#include "server/admin_service.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/abort_request.h"
#include "server/status_mapping.h"
#include "server/unknown_fields.h"

namespace parallax::server {
namespace {

void FillStats(const EngineStats& stats, v1::GetStatsResponse* response) {
  response->set_draining(stats.draining);
  response->set_requests_running(stats.gauges.requests_running);
  response->set_requests_waiting(stats.gauges.requests_waiting);
  response->set_requests_submitted(stats.requests_submitted);
  response->set_requests_finished(stats.requests_finished);
  response->set_prompt_tokens(stats.prompt_tokens);
  response->set_tokens_generated(stats.tokens_generated);
  response->set_steps(stats.steps);
  response->set_preemptions(stats.preemptions);
  response->set_pages_total(stats.gauges.pages_total);
  response->set_pages_used(stats.gauges.pages_used);
  response->set_pages_cached(stats.gauges.pages_cached);
  response->set_prefix_cache_query_tokens(stats.prefix_cache_query_tokens);
  response->set_prefix_cache_hit_tokens(stats.prefix_cache_hit_tokens);
  response->set_probe_state_bytes_total(stats.gauges.probe_state_bytes_total);
  response->set_probe_state_bytes_used(stats.gauges.probe_state_bytes_used);
}

}  // namespace

AdminService::AdminService(Engine* engine, const Authenticator* authenticator,
                           HealthMonitor* health, const Logger* logger)
    : engine_(*engine),
      authenticator_(*authenticator),
      health_(*health),
      logger_(*logger),
      started_(absl::Now()) {}

grpc::Status AdminService::Drain(grpc::ServerContext* context, const v1::DrainRequest* request,
                                 v1::DrainResponse* response) {
  constexpr int64_t kMaxTimeoutMs = 60 * 60 * 1000;
  if (absl::Status s = CheckNoUnknownFields(*request); !s.ok()) return ToGrpcStatus(s);
  if (request->timeout_ms() < 0 || request->timeout_ms() > kMaxTimeoutMs) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                        absl::StrCat("timeout_ms: ", request->timeout_ms(), " is outside [0, ",
                                     kMaxTimeoutMs, "]"));
  }
  logger_.Info("drain", {{"timeout_ms", request->timeout_ms()}});
  engine_.BeginDrain();
  health_.Refresh();
  response->set_drained(AwaitDrained(*context, absl::Milliseconds(request->timeout_ms())));
  const EngineStats stats = engine_.Stats();
  response->set_live_requests(
      static_cast<int32_t>(stats.requests_submitted - stats.requests_finished));
  return grpc::Status::OK;
}

// In slices, to notice that the operator has gone: the thread is then free again.
bool AdminService::AwaitDrained(const grpc::ServerContext& context, absl::Duration timeout) {
  constexpr absl::Duration kSlice = absl::Seconds(1);
  const absl::Time deadline = absl::Now() + timeout;
  while (!engine_.AwaitDrained(std::min(deadline, absl::Now() + kSlice))) {
    if (absl::Now() >= deadline || context.IsCancelled()) return false;
  }
  return true;
}

grpc::Status AdminService::Abort(grpc::ServerContext* context, const v1::AbortRequest* request,
                                 v1::AbortResponse* response) {
  const absl::Status status = AbortRequests(
      *request, [this](const std::string& id) { return AbortOne(id); }, response);
  if (status.ok()) logger_.Info("abort", {{"aborted", response->aborted_size()}});
  return ToGrpcStatus(status);
}

// An operator knows ids, not callers.
bool AdminService::AbortOne(const std::string& id) {
  for (const std::string& principal : authenticator_.PrincipalNames()) {
    if (engine_.Abort(id, principal, absl::CancelledError("aborted by an operator"))) return true;
  }
  return false;
}

grpc::Status AdminService::GetStats(grpc::ServerContext* context,
                                    const v1::GetStatsRequest* request,
                                    v1::GetStatsResponse* response) {
  if (absl::Status s = CheckNoUnknownFields(*request); !s.ok()) return ToGrpcStatus(s);
  FillStats(engine_.Stats(), response);
  const absl::Status health = health_.Judge();
  response->set_healthy(health.ok());
  response->set_health_message(std::string(health.message()));
  response->set_uptime_ms(absl::ToInt64Milliseconds(absl::Now() - started_));
  return grpc::Status::OK;
}

grpc::Status AdminService::FlushPrefixCache(grpc::ServerContext* context,
                                            const v1::FlushPrefixCacheRequest* request,
                                            v1::FlushPrefixCacheResponse* response) {
  if (absl::Status s = CheckNoUnknownFields(*request); !s.ok()) return ToGrpcStatus(s);
  response->set_pages_freed(engine_.FlushPrefixCache());
  logger_.Info("flush_prefix_cache", {{"pages_freed", response->pages_freed()}});
  return grpc::Status::OK;
}

}  // namespace parallax::server
