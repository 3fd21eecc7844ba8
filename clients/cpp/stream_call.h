// StreamCall: one GenerateStream call in progress, with its retries.
//
// Chunks arrive on gRPC's threads, one at a time and in order. While a callback runs no
// further chunk is read, so a slow callback slows its own stream down (and the server ends
// a stream whose reader falls too far behind), never another one. The threads are shared:
// a callback that blocks for long should hand its chunks to a thread of its own.
//
// Thread safety: Cancel and Wait may be called from any thread, but a callback must neither
// Wait nor destroy the client.
#ifndef PARALLAX_CLIENTS_CPP_STREAM_CALL_H_
#define PARALLAX_CLIENTS_CPP_STREAM_CALL_H_

#include <grpcpp/alarm.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "clients/cpp/call_options.h"
#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::client {

struct StreamCallbacks {
  /// Any number of times. May be empty.
  std::function<void(const v1::GenerateChunk&)> on_chunk;
  /// Exactly once, last. OK: every choice had its finish. May be empty.
  std::function<void(const grpc::Status&)> on_done;
};

class StreamCall : public std::enable_shared_from_this<StreamCall> {
 public:
  /// Starts at once. The call keeps itself alive until on_done has returned, so the result
  /// may be dropped. `stub` outlives the call. `options.cancellation` is not used here:
  /// cancel through the returned object.
  static std::shared_ptr<StreamCall> Start(v1::InferenceService::Stub* stub, std::string token,
                                           v1::GenerateRequest request, const CallOptions& options,
                                           StreamCallbacks callbacks);

  /// Ends the call with CANCELLED unless it has ended. Does not wait.
  void Cancel();

  /// Waits until on_done has returned; returns the call's status.
  grpc::Status Wait();

  StreamCall(const StreamCall&) = delete;
  StreamCall& operator=(const StreamCall&) = delete;

 private:
  class Attempt;

  StreamCall(v1::InferenceService::Stub* stub, std::string token, v1::GenerateRequest request,
             const CallOptions& options, StreamCallbacks callbacks);

  void StartAttempt();
  void OnChunk(const v1::GenerateChunk& chunk);
  /// How long to wait before the next attempt; nullopt: `status` is the call's own.
  std::optional<std::chrono::milliseconds> OnAttemptEnded(const grpc::Status& status,
                                                          const grpc::ClientContext& context);
  void FinishOrRetry(const grpc::Status& status,
                     std::optional<std::chrono::milliseconds> retry_after);
  /// False if the call was cancelled.
  bool ScheduleRetry(std::chrono::milliseconds wait);
  void OnAlarm(bool elapsed);
  void Finish(const grpc::Status& status);

  v1::InferenceService::Stub* const stub_;
  const std::string token_;
  const std::vector<std::pair<std::string, std::string>> metadata_;
  const v1::GenerateRequest request_;
  const StreamCallbacks callbacks_;
  const std::chrono::system_clock::time_point deadline_;  // max() = none
  Backoff backoff_;                                       // touched between attempts only
  bool delivered_chunk_ = false;                          // touched by the attempt in progress only

  std::mutex mutex_;
  std::condition_variable changed_;
  Attempt* attempt_ = nullptr;          // guarded by mutex_; owns itself
  std::unique_ptr<grpc::Alarm> alarm_;  // guarded by mutex_; set while waiting to retry
  bool cancelled_ = false;              // guarded by mutex_
  bool done_ = false;                   // guarded by mutex_
  grpc::Status status_;                 // guarded by mutex_
};

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_STREAM_CALL_H_
