// Calls that do not generate: who are they from, and how do they end. Those that do are
// GenerateCalls.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_ADMISSION_H_
#define PARALLAX_SERVER_ADMISSION_H_

#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "server/call_environment.h"
#include "server/metrics.h"
#include "server/principal.h"

namespace parallax::server {

/// UNAUTHENTICATED unless the call's metadata names a caller.
absl::StatusOr<std::shared_ptr<Principal>> AuthenticateCall(const grpc::ServerContextBase& context,
                                                            const CallEnvironment& environment);

/// The end of a call that does not generate: counts it, logs a refused one, and adds the retry
/// hint and the caller's traceparent to the trailing metadata.
grpc::Status EndCall(RpcMethod method, const absl::Status& status,
                     const CallEnvironment& environment, grpc::CallbackServerContext* context);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_ADMISSION_H_
