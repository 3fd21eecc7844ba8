#include "server/generate_call.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "engine/retry_after.h"
#include "server/status_mapping.h"

namespace parallax::server {
namespace {

bool IsServerFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

}  // namespace

void AddRetryAfter(const absl::Status& status, grpc::ServerContextBase* context) {
  const std::optional<absl::Duration> delay = GetRetryAfter(status);
  if (!delay.has_value()) return;
  const int64_t milliseconds =
      std::max<int64_t>(1, absl::ToInt64Milliseconds(absl::Ceil(*delay, absl::Milliseconds(1))));
  context->AddTrailingMetadata("retry-after-ms", std::to_string(milliseconds));
}

GenerateCall::GenerateCall(RpcMethod method, grpc::CallbackServerContext* context,
                           const CallEnvironment* environment, const Request& request,
                           Permit permit)
    : method_(method),
      context_(context),
      environment_(*environment),
      request_id_(request.id),
      principal_(request.principal),
      deadline_(request.deadline),
      permit_(std::move(permit)) {
  context_->AddInitialMetadata("x-request-id", request_id_);
}

void GenerateCall::Cancel(absl::Status status) const {
  environment_.engine->Abort(request_id_, principal_, std::move(status));
}

absl::Status GenerateCall::ClientGoneStatus() const {
  if (absl::Now() >= deadline_) return absl::DeadlineExceededError("the call's deadline passed");
  return absl::CancelledError("the client cancelled the call or went away");
}

grpc::Status GenerateCall::End(const absl::Status& status) {
  permit_.Release();
  AddRetryAfter(status, context_);
  const grpc::Status wire = ToGrpcStatus(status);
  environment_.metrics->OnRpc(method_, wire.error_code());
  LogEnd(status);
  return wire;
}

void GenerateCall::LogEnd(const absl::Status& status) const {
  const LogLevel level = IsServerFault(status.code()) ? LogLevel::kWarning : LogLevel::kDebug;
  if (!environment_.logger->Enabled(level)) return;
  environment_.logger->Log(level, "call_ended",
                           {{"method", RpcMethodName(method_)},
                            {"request_id", request_id_},
                            {"principal", principal_},
                            {"code", StatusCodeName(ToGrpcStatus(status).error_code())},
                            {"message", std::string(status.message())}});
}

}  // namespace parallax::server
