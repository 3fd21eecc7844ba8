// GenerateCall: what one generating call holds besides its output: its id, its permit, and
// how it is ended and accounted for.
//
// Metadata: x-request-id in the initial metadata of what the engine accepted and in all trailing
// metadata, a valid traceparent of the caller's in the trailing. Log: one line a call,
// "request_ended", with ids, tokens, timings, finish reason and peer; never with the prompt or the
// output.
//
// Thread safety: End once, from any thread, after every NoteFinish; these from one thread at a
// time. The rest is const or delegates to the engine.
#ifndef PARALLAX_SERVER_GENERATE_CALL_H_
#define PARALLAX_SERVER_GENERATE_CALL_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/token_sink.h"
#include "grpcpp/server_context.h"
#include "server/call_environment.h"
#include "server/metrics.h"
#include "server/principal.h"

namespace parallax::server {

class GenerateCall {
 public:
  /// `context` lives until gRPC is done with the call.
  GenerateCall(RpcMethod method, grpc::CallbackServerContext* context,
               const CallEnvironment* environment, const Request& request, Permit permit);

  const std::string& request_id() const { return request_id_; }
  const CallEnvironment& environment() const { return environment_; }

  /// Has the engine end the request with `status`. Reaches only requests of this call's
  /// principal: once the request has ended, its id may be another's.
  void Cancel(absl::Status status) const;
  /// Puts the request's id into the initial metadata, which is sent with the first answer.
  void AnnounceId();

  /// Why the client's side of the call is gone: its deadline passed, or it cancelled.
  absl::Status ClientGoneStatus() const;

  /// A choice ended.
  void NoteFinish(const ChoiceFinish& finish);

  /// The call's end: counts and logs it, releases its permit (before the client can know,
  /// so that its next call finds the place free) and adds the retry hint, if any.
  grpc::Status End(const absl::Status& status);

 private:
  /// Of all choices: tokens added up, times of the slowest, the reason of the last to end.
  struct Outcome {
    std::optional<FinishReason> reason;
    int32_t prompt_tokens = 0;
    int32_t cached_tokens = 0;
    int32_t completion_tokens = 0;
    RequestTimings timings;
  };

  void LogEnd(const absl::Status& status) const;

  const RpcMethod method_;
  grpc::CallbackServerContext* const context_;
  const CallEnvironment& environment_;
  const std::string request_id_;
  const std::string principal_;
  const std::string traceparent_;  // empty: none that is valid
  const absl::Time deadline_;
  const absl::Time received_;
  Permit permit_;
  Outcome outcome_;
};

/// Adds the trailing metadatum retry-after-ms if `status` has a hint.
void AddRetryAfter(const absl::Status& status, grpc::ServerContextBase* context);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GENERATE_CALL_H_
