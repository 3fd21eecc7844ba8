#include "server/inference_service.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/abort_request.h"
#include "server/generate_collector.h"
#include "server/generate_reactor.h"
#include "server/model_info.h"
#include "server/request_builder.h"
#include "server/request_ids.h"
#include "server/status_mapping.h"
#include "server/unknown_fields.h"

namespace parallax::server {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

// A stream that is refused before it reaches the engine.
class RefusedStream final : public grpc::ServerWriteReactor<v1::GenerateChunk> {
 public:
  explicit RefusedStream(grpc::Status status) { Finish(std::move(status)); }
  void OnDone() override { delete this; }  // gRPC's idiom: it holds the only pointer
};

}  // namespace

absl::StatusOr<std::shared_ptr<Principal>> InferenceService::Authenticate(
    const grpc::CallbackServerContext& context) const {
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  std::optional<std::string_view> authorization;
  if (first != last && std::next(first) == last) {  // two values: neither is believed
    authorization = std::string_view(first->second.data(), first->second.size());
  }
  return environment_.authenticator->Authenticate(authorization);
}

absl::StatusOr<InferenceService::Admitted> InferenceService::Admit(
    const grpc::CallbackServerContext& context, const v1::GenerateRequest& wire) const {
  absl::StatusOr<std::shared_ptr<Principal>> principal = Authenticate(context);
  if (!principal.ok()) return principal.status();
  absl::StatusOr<Permit> permit = (*principal)->AdmitRequest(absl::Now());
  if (!permit.ok()) return permit.status();
  RequestIdentity identity = DrawRequestIdentity();
  CallFacts facts{(*principal)->name(), DeadlineOf(context), std::move(identity.id), identity.seed};
  absl::StatusOr<Request> request =
      BuildRequest(wire, environment_.model, environment_.limits, std::move(facts));
  if (!request.ok()) return request.status();
  return Admitted{*std::move(request), *std::move(permit)};
}

grpc::Status InferenceService::EndUnary(RpcMethod method, const absl::Status& status,
                                        grpc::CallbackServerContext* context) const {
  AddRetryAfter(status, context);
  const grpc::Status wire = ToGrpcStatus(status);
  environment_.metrics->OnRpc(method, wire.error_code());
  environment_.logger->Debug("call_ended", {{"method", RpcMethodName(method)},
                                            {"code", StatusCodeName(wire.error_code())},
                                            {"message", wire.error_message()}});
  return wire;
}

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  absl::StatusOr<Admitted> admitted = Admit(*context, *request);
  if (admitted.ok()) {
    return GenerateCollector::Start(context, &environment_, std::move(admitted->request),
                                    std::move(admitted->permit), response);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(EndUnary(RpcMethod::kGenerate, admitted.status(), context));
  return reactor;
}

grpc::ServerWriteReactor<v1::GenerateChunk>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  absl::StatusOr<Admitted> admitted = Admit(*context, *request);
  if (admitted.ok()) {
    return GenerateReactor::Start(context, &environment_, std::move(admitted->request),
                                  std::move(admitted->permit));
  }
  return new RefusedStream(EndUnary(RpcMethod::kGenerateStream, admitted.status(), context));
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(
      EndUnary(RpcMethod::kTokenize, DoTokenize(*context, *request, response), context));
  return reactor;
}

absl::Status InferenceService::DoTokenize(const grpc::CallbackServerContext& context,
                                          const v1::TokenizeRequest& request,
                                          v1::TokenizeResponse* response) const {
  const absl::StatusOr<std::shared_ptr<Principal>> principal = Authenticate(context);
  if (!principal.ok()) return principal.status();
  if (absl::Status s = (*principal)->ChargeRate(absl::Now()); !s.ok()) return s;
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  const Tokenizer* tokenizer = environment_.model.tokenizer;
  if (tokenizer == nullptr) return absl::FailedPreconditionError("the model has no tokenizer");
  const bool add_special = !request.has_add_special_tokens() || request.add_special_tokens();
  const absl::StatusOr<std::vector<int32_t>> ids = tokenizer->Encode(request.text(), add_special);
  if (!ids.ok()) {
    return absl::Status(ids.status().code(), absl::StrCat("text: ", ids.status().message()));
  }
  for (const int32_t id : *ids) {
    response->add_token_ids(id);
    response->add_tokens(std::string(tokenizer->TokenBytes(id)));
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(
      EndUnary(RpcMethod::kDetokenize, DoDetokenize(*context, *request, response), context));
  return reactor;
}

absl::Status InferenceService::DoDetokenize(const grpc::CallbackServerContext& context,
                                            const v1::DetokenizeRequest& request,
                                            v1::DetokenizeResponse* response) const {
  const absl::StatusOr<std::shared_ptr<Principal>> principal = Authenticate(context);
  if (!principal.ok()) return principal.status();
  if (absl::Status s = (*principal)->ChargeRate(absl::Now()); !s.ok()) return s;
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  const ServedModel& model = environment_.model;
  if (model.tokenizer == nullptr) {
    return absl::FailedPreconditionError("the model has no tokenizer");
  }
  const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
  for (const int32_t id : ids) {
    if (absl::Status s = CheckTokenId("token_ids", id, model); !s.ok()) return s;
  }
  const bool skip_special = !request.has_skip_special_tokens() || request.skip_special_tokens();
  response->set_text(model.tokenizer->Decode(ids, skip_special));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest* request,
                                                         v1::GetModelInfoResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(
      EndUnary(RpcMethod::kGetModelInfo, DoGetModelInfo(*context, *request, response), context));
  return reactor;
}

absl::Status InferenceService::DoGetModelInfo(const grpc::CallbackServerContext& context,
                                              const v1::GetModelInfoRequest& request,
                                              v1::GetModelInfoResponse* response) const {
  if (const auto principal = Authenticate(context); !principal.ok()) return principal.status();
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  FillModelInfo(environment_.engine->model(), environment_.model, environment_.limits, response);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context,
                                                  const v1::AbortRequest* request,
                                                  v1::AbortResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(EndUnary(RpcMethod::kAbort, DoAbort(*context, *request, response), context));
  return reactor;
}

absl::Status InferenceService::DoAbort(const grpc::CallbackServerContext& context,
                                       const v1::AbortRequest& request,
                                       v1::AbortResponse* response) const {
  const absl::StatusOr<std::shared_ptr<Principal>> principal = Authenticate(context);
  if (!principal.ok()) return principal.status();
  const auto abort = [&](const std::string& id) {
    return environment_.engine->Abort(id, (*principal)->name(),
                                      absl::CancelledError("aborted by the caller"));
  };
  return AbortRequests(request, abort, response);
}

}  // namespace parallax::server
