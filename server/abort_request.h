// What the Abort of InferenceService, VllmEngine and AdminService share.
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_SERVER_ABORT_REQUEST_H_
#define PARALLAX_SERVER_ABORT_REQUEST_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "parallax/v1/abort.pb.h"
#include "server/call_environment.h"

namespace parallax::server {

/// Validates the request (INVALID_ARGUMENT naming the field), calls `abort` for each id, and
/// reports it as aborted where that returns true.
absl::Status AbortRequests(const v1::AbortRequest& request,
                           const std::function<bool(const std::string& id)>& abort,
                           v1::AbortResponse* response);

/// The same for whom the call is from, who reaches only requests of its own. UNAUTHENTICATED.
absl::Status AbortOwnRequests(const v1::AbortRequest& request,
                              const grpc::ServerContextBase& context,
                              const CallEnvironment& environment, v1::AbortResponse* response);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_ABORT_REQUEST_H_
