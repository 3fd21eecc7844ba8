#include "server/inference_service.h"

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/steady_time.h"
#include "server/abort_request.h"
#include "server/admission.h"
#include "server/chunk_encoder.h"
#include "server/generate_collector.h"
#include "server/generate_reactor.h"
#include "server/model_info.h"
#include "server/output_size.h"
#include "server/refused_stream.h"
#include "server/request_builder.h"
#include "server/unary_reply.h"
#include "server/unknown_fields.h"

namespace parallax::server {
namespace {

absl::StatusOr<Request> Admit(const v1::GenerateRequest& wire, GenerateCall* call) {
  if (absl::Status s = call->Admit(); !s.ok()) return s;
  if (absl::Status s = CheckNoUnknownFields(wire); !s.ok()) return s;
  return call->Build(wire);
}

absl::Status CheckReplyBytes(size_t bytes, const RequestLimits& limits) {
  if (bytes <= limits.max_response_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the reply would have more than ", limits.max_response_bytes, " bytes; send less at once"));
}

// Of an id and its token in TokenizeResponse.
size_t TokenBytesOnWire(const Tokenizer& tokenizer, int32_t id) {
  constexpr size_t kTagAndLength = 4;
  return kTokenIdBytes + kTagAndLength + tokenizer.TokenBytes(id).size();
}

}  // namespace

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* wire,
                                                     v1::GenerateResponse* response) {
  GenerateCall call(RpcMethod::kGenerate, context, &environment_, wire->request_id());
  absl::StatusOr<Request> request = Admit(*wire, &call);
  if (request.ok()) {
    return GenerateCollector::Start(std::move(call), *std::move(request), response);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(call.End(request.status()));
  return reactor;
}

grpc::ServerWriteReactor<v1::GenerateChunk>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* wire) {
  GenerateCall call(RpcMethod::kGenerateStream, context, &environment_, wire->request_id());
  absl::StatusOr<Request> request = Admit(*wire, &call);
  if (!request.ok()) return new RefusedStream<v1::GenerateChunk>(call.End(request.status()));
  ChunkEncoder encoder(*request, environment_.model.tokenizer);
  return GenerateReactor<ChunkEncoder>::Start(std::move(call), *std::move(request),
                                              std::move(encoder));
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  const absl::Status status = DoTokenize(*context, *request, response);
  return new UnaryReply(EndCall(RpcMethod::kTokenize, status, environment_, context),
                        environment_.open_calls, context);
}

absl::Status InferenceService::DoTokenize(const grpc::CallbackServerContext& context,
                                          const v1::TokenizeRequest& request,
                                          v1::TokenizeResponse* response) const {
  const absl::StatusOr<std::shared_ptr<Principal>> principal =
      AuthenticateCall(context, environment_);
  if (!principal.ok()) return principal.status();
  if (absl::Status s = (*principal)->ChargeRate(SteadyNow()); !s.ok()) return s;
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  const Tokenizer* tokenizer = environment_.model.tokenizer;
  if (tokenizer == nullptr) return absl::FailedPreconditionError("the model has no tokenizer");
  const bool add_special = !request.has_add_special_tokens() || request.add_special_tokens();
  const absl::StatusOr<std::vector<int32_t>> ids = tokenizer->Encode(request.text(), add_special);
  if (!ids.ok()) {
    return absl::Status(ids.status().code(), absl::StrCat("text: ", ids.status().message()));
  }
  // Before it is built: a text of one-byte tokens takes ten times its size.
  size_t bytes = 0;
  for (const int32_t id : *ids) bytes += TokenBytesOnWire(*tokenizer, id);
  if (absl::Status s = CheckReplyBytes(bytes, environment_.limits); !s.ok()) return s;
  for (const int32_t id : *ids) {
    response->add_token_ids(id);
    response->add_tokens(std::string(tokenizer->TokenBytes(id)));
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  const absl::Status status = DoDetokenize(*context, *request, response);
  return new UnaryReply(EndCall(RpcMethod::kDetokenize, status, environment_, context),
                        environment_.open_calls, context);
}

absl::Status InferenceService::DoDetokenize(const grpc::CallbackServerContext& context,
                                            const v1::DetokenizeRequest& request,
                                            v1::DetokenizeResponse* response) const {
  const absl::StatusOr<std::shared_ptr<Principal>> principal =
      AuthenticateCall(context, environment_);
  if (!principal.ok()) return principal.status();
  if (absl::Status s = (*principal)->ChargeRate(SteadyNow()); !s.ok()) return s;
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  const ServedModel& model = environment_.model;
  if (model.tokenizer == nullptr) {
    return absl::FailedPreconditionError("the model has no tokenizer");
  }
  const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
  size_t bytes = 0;
  for (const int32_t id : ids) {
    if (absl::Status s = CheckTokenId("token_ids", id, model); !s.ok()) return s;
    bytes += model.tokenizer->TokenBytes(id).size();
  }
  // Before it is built: an id of one byte may stand for a hundred.
  if (absl::Status s = CheckReplyBytes(bytes, environment_.limits); !s.ok()) return s;
  const bool skip_special = !request.has_skip_special_tokens() || request.skip_special_tokens();
  response->set_text(model.tokenizer->Decode(ids, skip_special));
  // Bytes that are no characters have become U+FFFD, up to three times as many.
  return CheckReplyBytes(response->text().size(), environment_.limits);
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest* request,
                                                         v1::GetModelInfoResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(EndCall(RpcMethod::kGetModelInfo, DoGetModelInfo(*context, *request, response),
                          environment_, context));
  return reactor;
}

absl::Status InferenceService::DoGetModelInfo(const grpc::CallbackServerContext& context,
                                              const v1::GetModelInfoRequest& request,
                                              v1::GetModelInfoResponse* response) const {
  if (const auto principal = AuthenticateCall(context, environment_); !principal.ok())
    return principal.status();
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  FillModelInfo(environment_.engine->model(), environment_.model, environment_.limits, response);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context,
                                                  const v1::AbortRequest* request,
                                                  v1::AbortResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = AbortOwnRequests(*request, *context, environment_, response);
  reactor->Finish(EndCall(RpcMethod::kAbort, status, environment_, context));
  return reactor;
}

}  // namespace parallax::server
