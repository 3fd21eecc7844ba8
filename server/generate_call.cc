#include "server/generate_call.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/time/clock.h"
#include "engine/retry_after.h"
#include "server/status_mapping.h"
#include "server/trace_context.h"

namespace parallax::server {
namespace {

bool IsServerFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

std::string TraceparentOf(const grpc::ServerContextBase& context) {
  const auto [first, last] = context.client_metadata().equal_range("traceparent");
  if (first == last || std::next(first) != last) return {};
  const std::string_view value(first->second.data(), first->second.size());
  return IsTraceparent(value) ? std::string(value) : std::string();
}

std::string_view ReasonName(const std::optional<FinishReason>& reason) {
  if (!reason.has_value()) return "none";  // refused by the engine
  switch (*reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      break;
  }
  return "error";
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
      traceparent_(TraceparentOf(*context)),
      deadline_(request.deadline),
      received_(absl::Now()),
      permit_(std::move(permit)) {}

void GenerateCall::AnnounceId() { context_->AddInitialMetadata("x-request-id", request_id_); }

void GenerateCall::Cancel(absl::Status status) const {
  environment_.engine->Abort(request_id_, principal_, std::move(status));
}

absl::Status GenerateCall::ClientGoneStatus() const {
  if (absl::Now() >= deadline_) return absl::DeadlineExceededError("the call's deadline passed");
  return absl::CancelledError("the client cancelled the call or went away");
}

void GenerateCall::NoteFinish(const ChoiceFinish& finish) {
  outcome_.reason = finish.reason;
  outcome_.prompt_tokens = finish.prompt_tokens;  // the choices share them
  outcome_.cached_tokens = finish.cached_tokens;
  outcome_.completion_tokens += finish.completion_tokens;
  outcome_.timings.queue = std::max(outcome_.timings.queue, finish.timings.queue);
  outcome_.timings.prefill = std::max(outcome_.timings.prefill, finish.timings.prefill);
  outcome_.timings.decode = std::max(outcome_.timings.decode, finish.timings.decode);
}

grpc::Status GenerateCall::End(const absl::Status& status) {
  permit_.Release();
  AddRetryAfter(status, context_);
  context_->AddTrailingMetadata("x-request-id", request_id_);
  if (!traceparent_.empty()) context_->AddTrailingMetadata("traceparent", traceparent_);
  const grpc::Status wire = ToGrpcStatus(status);
  environment_.metrics->OnRpc(method_, wire.error_code());
  LogEnd(status);
  return wire;
}

void GenerateCall::LogEnd(const absl::Status& status) const {
  const LogLevel level = IsServerFault(status.code()) ? LogLevel::kWarning : LogLevel::kInfo;
  if (!environment_.logger->Enabled(level)) return;
  environment_.logger->Log(level, "request_ended",
                           {{"method", RpcMethodName(method_)},
                            {"request_id", request_id_},
                            {"traceparent", traceparent_},
                            {"principal", principal_},
                            {"peer", context_->peer()},
                            {"code", StatusCodeName(ToGrpcStatus(status).error_code())},
                            {"message", std::string(status.message())},
                            {"finish_reason", ReasonName(outcome_.reason)},
                            {"prompt_tokens", outcome_.prompt_tokens},
                            {"cached_tokens", outcome_.cached_tokens},
                            {"completion_tokens", outcome_.completion_tokens},
                            {"queue_us", absl::ToInt64Microseconds(outcome_.timings.queue)},
                            {"prefill_us", absl::ToInt64Microseconds(outcome_.timings.prefill)},
                            {"decode_us", absl::ToInt64Microseconds(outcome_.timings.decode)},
                            {"total_us", absl::ToInt64Microseconds(absl::Now() - received_)}});
}

}  // namespace parallax::server
