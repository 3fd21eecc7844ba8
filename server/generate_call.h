// GenerateCall: what one Generate or GenerateStream call holds besides its output: its id,
// its permit, and how it is ended and accounted for.
//
// Thread safety: End once, from any thread; the rest is const or delegates to the engine.
#ifndef PARALLAX_SERVER_GENERATE_CALL_H_
#define PARALLAX_SERVER_GENERATE_CALL_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "server/call_environment.h"
#include "server/metrics.h"
#include "server/principal.h"

namespace parallax::server {

class GenerateCall {
 public:
  /// `context` lives until gRPC is done with the call. Adds the x-request-id metadatum.
  GenerateCall(RpcMethod method, grpc::CallbackServerContext* context,
               const CallEnvironment* environment, const Request& request, Permit permit);

  const std::string& request_id() const { return request_id_; }
  const CallEnvironment& environment() const { return environment_; }

  /// Has the engine end the request with `status`. Reaches only requests of this call's
  /// principal: once the request has ended, its id may be another's.
  void Cancel(absl::Status status) const;
  /// Why the client's side of the call is gone: its deadline passed, or it cancelled.
  absl::Status ClientGoneStatus() const;

  /// The call's end: counts and logs it, releases its permit (before the client can know,
  /// so that its next call finds the place free) and adds the retry hint, if any.
  grpc::Status End(const absl::Status& status);

 private:
  void LogEnd(const absl::Status& status) const;

  const RpcMethod method_;
  grpc::CallbackServerContext* const context_;
  const CallEnvironment& environment_;
  const std::string request_id_;
  const std::string principal_;
  const absl::Time deadline_;
  Permit permit_;
};

/// Adds the trailing metadatum retry-after-ms if `status` has a hint.
void AddRetryAfter(const absl::Status& status, grpc::ServerContextBase* context);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GENERATE_CALL_H_
