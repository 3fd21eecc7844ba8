// What InferenceService.Abort and AdminService.Abort share.
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_SERVER_ABORT_REQUEST_H_
#define PARALLAX_SERVER_ABORT_REQUEST_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "parallax/v1/abort.pb.h"

namespace parallax::server {

/// Validates the request (INVALID_ARGUMENT naming the field), calls `abort` for each id, and
/// reports it as aborted where that returns true.
absl::Status AbortRequests(const v1::AbortRequest& request,
                           const std::function<bool(const std::string& id)>& abort,
                           v1::AbortResponse* response);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_ABORT_REQUEST_H_
