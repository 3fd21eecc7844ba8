// GenerateCall: one generating call, from its arrival to its end: its id, its caller and permit,
// and how it is accounted for. What is refused and what the engine runs end the same way.
//
// A call is accounted for (log, metrics, permit) before its client can know that it has ended. But
// a client need not read its answer: one that is more than a few kilobytes is accounted for when
// it has been taken, or has not been.
//
// Metadata: x-request-id in the initial metadata of what has output and in all trailing metadata, a
// valid traceparent of the caller's in the trailing. Log: one line a call, refused or
// not, "request_ended", with ids, caller, tokens, timings, finish reason and peer; never with the
// prompt or the output. With --log-prompts another before, "request_prompt", so that a prompt that
// ends the server is in the log.
//
// Thread safety: End once, from any thread, after all else but Close and const methods, which may
// be called from any thread at any time; NoteFinish and NoteFirstToken from one thread at a time.
#ifndef PARALLAX_SERVER_GENERATE_CALL_H_
#define PARALLAX_SERVER_GENERATE_CALL_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "grpcpp/server_context.h"
#include "parallax/v1/inference.pb.h"
#include "server/call_environment.h"
#include "server/metrics.h"
#include "server/open_calls.h"
#include "server/principal.h"
#include "server/request_ids.h"

namespace parallax::server {

class GenerateCall {
 public:
  /// `requested_id` is the call's, if it is a valid one; else it gets one of the server's.
  /// `context` lives until gRPC is done with the call.
  GenerateCall(RpcMethod method, grpc::CallbackServerContext* context,
               const CallEnvironment* environment, const std::string& requested_id);

  /// Finds out who calls and takes a permit of that caller's: UNAUTHENTICATED, or
  /// RESOURCE_EXHAUSTED with a retry hint.
  absl::Status Admit();
  /// Validates `wire` (request_builder.h). REQUIRES: admitted.
  absl::StatusOr<Request> Build(const v1::GenerateRequest& wire) const;

  const std::string& request_id() const { return identity_.id; }
  bool named_by_caller() const { return named_by_caller_; }
  const CallEnvironment& environment() const { return *environment_; }

  /// Has the engine end the request that was submitted with `sink`: its id may be another's by now.
  void Cancel(const TokenSink& sink, absl::Status status) const;
  /// Puts the request's id into the initial metadata, which is sent with the first answer.
  void AnnounceId();

  /// Why the client's side of the call is gone: its deadline passed, it cancelled, or it was too
  /// slow to take its answer.
  absl::Status ClientGoneStatus() const;

  /// From here to Close the call is one of the environment's open calls. REQUIRES: gRPC tells of
  /// the call's end.
  void Open();
  /// Its answer is complete and waits for the client, who has just taken a part, or none yet.
  void AwaitReader() const;

  /// The first token leaves the server; counted once, later calls do nothing.
  void NoteFirstToken();

  /// A choice ended.
  void NoteFinish(const ChoiceFinish& finish);

  /// What a client surely has room for.
  static constexpr size_t kSmallAnswerBytes = size_t{16} << 10;

  /// The call's end, told gRPC together with `answer_bytes` of output: adds the retry hint, if any,
  /// and accounts for the call, unless the answer is not small.
  grpc::Status End(const absl::Status& status, size_t answer_bytes = 0);

  /// gRPC is done with the call; `cancelled`: not all of it reached the client.
  void Close(bool cancelled);

 private:
  /// Of all choices: tokens added up, times of the slowest, the reason of the last to end.
  struct Outcome {
    std::optional<FinishReason> reason;
    int32_t prompt_tokens = 0;
    int32_t cached_tokens = 0;
    int32_t completion_tokens = 0;
    RequestTimings timings;
  };

  void Account(const absl::Status& status);
  void LogPrompt(const Request& request) const;
  void LogEnd(const absl::Status& status) const;
  void LogNotTaken() const;

  RpcMethod method_;
  grpc::CallbackServerContext* context_;
  const CallEnvironment* environment_;
  RequestIdentity identity_;
  bool named_by_caller_;
  std::string principal_;    // empty until admitted
  std::string traceparent_;  // empty: none that is valid
  absl::Time deadline_;
  absl::Time arrival_;
  bool first_token_seen_ = false;
  Permit permit_;
  Outcome outcome_;
  std::shared_ptr<OpenCalls::Call> open_;   // null before Open
  std::optional<absl::Status> to_account_;  // End's, until Close
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GENERATE_CALL_H_
