// What every call goes through before the engine sees it, whichever service it came by:
// who is it from, may it run, what does it ask for.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_ADMISSION_H_
#define PARALLAX_SERVER_ADMISSION_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/request.h"
#include "grpcpp/server_context.h"
#include "parallax/v1/inference.pb.h"
#include "server/call_environment.h"
#include "server/metrics.h"
#include "server/principal.h"

namespace parallax::server {

/// UNAUTHENTICATED unless the call's metadata names a caller.
absl::StatusOr<std::shared_ptr<Principal>> AuthenticateCall(
    const grpc::CallbackServerContext& context, const CallEnvironment& environment);

struct AdmittedRequest {
  Request request;
  Permit permit;
};

/// Takes a permit of the caller's, then validates `wire` (request_builder.h).
absl::StatusOr<AdmittedRequest> AdmitRequest(const grpc::CallbackServerContext& context,
                                             std::shared_ptr<Principal> principal,
                                             const v1::GenerateRequest& wire,
                                             const CallEnvironment& environment);

/// The end of a call that never reached the engine: counts and logs it and adds the retry hint.
grpc::Status EndCall(RpcMethod method, const absl::Status& status,
                     const CallEnvironment& environment, grpc::CallbackServerContext* context);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_ADMISSION_H_
