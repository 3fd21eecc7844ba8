#include "server/generate_call.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "engine/base/steady_time.h"
#include "server/admission.h"
#include "server/call_metadata.h"
#include "server/finish_reason.h"
#include "server/prompt_excerpt.h"
#include "server/request_builder.h"
#include "server/status_mapping.h"

namespace parallax::server {
namespace {

bool IsServerFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

std::string_view ReasonName(const std::optional<FinishReason>& reason) {
  return reason.has_value() ? FinishReasonName(*reason) : "none";  // refused
}

}  // namespace

GenerateCall::GenerateCall(RpcMethod method, grpc::CallbackServerContext* context,
                           const CallEnvironment* environment, const std::string& requested_id)
    : method_(method),
      context_(context),
      environment_(environment),
      identity_(DrawRequestIdentity()),
      named_by_caller_(CheckRequestId("request_id", requested_id).ok()),
      traceparent_(TraceparentOf(*context)),
      deadline_(SteadyFromSystem(DeadlineOf(*context))),
      arrival_(SteadyNow()) {
  if (named_by_caller_) identity_.id = requested_id;
}

absl::Status GenerateCall::Admit() {
  absl::StatusOr<std::shared_ptr<Principal>> principal = AuthenticateCall(*context_, *environment_);
  if (!principal.ok()) return principal.status();
  principal_ = (*principal)->name();
  absl::StatusOr<Permit> permit = (*principal)->AdmitRequest(arrival_);
  if (!permit.ok()) return permit.status();
  permit_ = *std::move(permit);
  return absl::OkStatus();
}

absl::StatusOr<Request> GenerateCall::Build(const v1::GenerateRequest& wire) const {
  absl::StatusOr<Request> request = BuildRequest(wire, environment_->model, environment_->limits,
                                                 {.principal = principal_,
                                                  .arrival = arrival_,
                                                  .deadline = deadline_,
                                                  .fallback_id = identity_.id,
                                                  .fallback_seed = identity_.seed});
  if (request.ok() && environment_->log_prompts) LogPrompt(*request);
  return request;
}

void GenerateCall::AnnounceId() { context_->AddInitialMetadata("x-request-id", identity_.id); }

void GenerateCall::Cancel(const TokenSink& sink, absl::Status status) const {
  environment_->engine->Cancel(identity_.id, sink, std::move(status));
}

absl::Status GenerateCall::ClientGoneStatus() const {
  if (open_ != nullptr) {
    if (absl::Status s = environment_->open_calls->Reason(*open_); !s.ok()) return s;
  }
  if (SteadyNow() >= deadline_) return absl::DeadlineExceededError("the call's deadline passed");
  return absl::CancelledError("the client cancelled the call or went away");
}

void GenerateCall::NoteFirstToken() {
  if (std::exchange(first_token_seen_, true)) return;
  environment_->metrics->OnFirstToken(SteadyNow() - arrival_);
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

void GenerateCall::Open() { open_ = environment_->open_calls->Open(context_); }

void GenerateCall::AwaitReader() const { environment_->open_calls->AwaitReader(open_.get()); }

grpc::Status GenerateCall::End(const absl::Status& status, size_t answer_bytes) {
  AddRetryAfter(status, context_);
  context_->AddTrailingMetadata("x-request-id", identity_.id);
  EchoTraceparent(traceparent_, context_);
  if (answer_bytes > kSmallAnswerBytes) {
    to_account_ = status;
  } else {
    Account(status);
  }
  return ToGrpcStatus(status);
}

// The permit first: the client's next call finds the place free.
void GenerateCall::Account(const absl::Status& status) {
  permit_.Release();
  environment_->metrics->OnRpc(method_, ToGrpcStatus(status).error_code());
  LogEnd(status);
}

void GenerateCall::Close(bool cancelled) {
  if (to_account_.has_value()) {
    Account(cancelled && to_account_->ok() ? ClientGoneStatus() : *to_account_);
  } else if (cancelled) {
    LogNotTaken();
  }
  environment_->open_calls->Close(open_.get());
}

void GenerateCall::LogPrompt(const Request& request) const {
  const PromptExcerpt excerpt = ExcerptPrompt(request.prompt, environment_->model.tokenizer);
  environment_->logger->Info("request_prompt", {{"method", RpcMethodName(method_)},
                                                {"request_id", identity_.id},
                                                {"principal", principal_},
                                                {"prompt_tokens", request.prompt.size()},
                                                {"prompt", excerpt.text},
                                                {"is_cut", excerpt.is_cut}});
}

void GenerateCall::LogEnd(const absl::Status& status) const {
  const LogLevel level = IsServerFault(status.code()) ? LogLevel::kWarning : LogLevel::kInfo;
  if (!environment_->logger->Enabled(level)) return;
  environment_->logger->Log(level, "request_ended",
                            {{"method", RpcMethodName(method_)},
                             {"request_id", identity_.id},
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
                             {"total_us", absl::ToInt64Microseconds(SteadyNow() - arrival_)}});
}

// What was accounted for before may not have been taken after all.
void GenerateCall::LogNotTaken() const {
  environment_->logger->Info("answer_not_taken",
                             {{"method", RpcMethodName(method_)},
                              {"request_id", identity_.id},
                              {"principal", principal_},
                              {"why", std::string(ClientGoneStatus().message())}});
}

}  // namespace parallax::server
