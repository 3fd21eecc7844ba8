#include "server/admission.h"

#include <chrono>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/time/clock.h"
#include "server/generate_call.h"
#include "server/request_builder.h"
#include "server/request_ids.h"
#include "server/status_mapping.h"

namespace parallax::server {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace

absl::StatusOr<std::shared_ptr<Principal>> AuthenticateCall(
    const grpc::CallbackServerContext& context, const CallEnvironment& environment) {
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  std::optional<std::string_view> authorization;
  if (first != last && std::next(first) == last) {  // two values: neither is believed
    authorization = std::string_view(first->second.data(), first->second.size());
  }
  return environment.authenticator->Authenticate(authorization);
}

absl::StatusOr<AdmittedRequest> AdmitRequest(const grpc::CallbackServerContext& context,
                                             std::shared_ptr<Principal> principal,
                                             const v1::GenerateRequest& wire,
                                             const CallEnvironment& environment) {
  absl::StatusOr<Permit> permit = principal->AdmitRequest(absl::Now());
  if (!permit.ok()) return permit.status();
  RequestIdentity identity = DrawRequestIdentity();
  CallFacts facts{principal->name(), DeadlineOf(context), std::move(identity.id), identity.seed};
  absl::StatusOr<Request> request =
      BuildRequest(wire, environment.model, environment.limits, std::move(facts));
  if (!request.ok()) return request.status();
  return AdmittedRequest{*std::move(request), *std::move(permit)};
}

grpc::Status EndCall(RpcMethod method, const absl::Status& status,
                     const CallEnvironment& environment, grpc::CallbackServerContext* context) {
  AddRetryAfter(status, context);
  const grpc::Status wire = ToGrpcStatus(status);
  environment.metrics->OnRpc(method, wire.error_code());
  environment.logger->Debug("call_ended", {{"method", RpcMethodName(method)},
                                           {"peer", context->peer()},
                                           {"code", StatusCodeName(wire.error_code())},
                                           {"message", wire.error_message()}});
  return wire;
}

}  // namespace parallax::server
