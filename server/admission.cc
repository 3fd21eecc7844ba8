#include "server/admission.h"

#include <string>

#include "server/call_metadata.h"
#include "server/status_mapping.h"

namespace parallax::server {

absl::StatusOr<std::shared_ptr<Principal>> AuthenticateCall(const grpc::ServerContextBase& context,
                                                            const CallEnvironment& environment) {
  return environment.authenticator->Authenticate(SingleMetadatum(context, "authorization"));
}

grpc::Status EndCall(RpcMethod method, const absl::Status& status,
                     const CallEnvironment& environment, grpc::CallbackServerContext* context) {
  AddRetryAfter(status, context);
  const std::string traceparent = TraceparentOf(*context);
  EchoTraceparent(traceparent, context);
  const grpc::Status wire = ToGrpcStatus(status);
  environment.metrics->OnRpc(method, wire.error_code());
  // Supervisors and gateways ask every second how the server is: no news.
  const LogLevel level = status.ok() ? LogLevel::kDebug : LogLevel::kInfo;
  if (!environment.logger->Enabled(level)) return wire;
  const auto principal = AuthenticateCall(*context, environment);
  environment.logger->Log(level, "call_ended",
                          {{"method", RpcMethodName(method)},
                           {"traceparent", traceparent},
                           {"principal", principal.ok() ? (*principal)->name() : ""},
                           {"peer", context->peer()},
                           {"code", StatusCodeName(wire.error_code())},
                           {"message", wire.error_message()}});
  return wire;
}

}  // namespace parallax::server
