// OpenCalls: the calls whose answer the client has yet to take.
//
// gRPC keeps an answer until the client makes room for it (HTTP/2's flow control): for ever, if
// the client keeps its connection alive and does not read. Therefore a call whose answer waits is
// cancelled once the client has taken nothing of it for `read_timeout`; and a server that stops
// waits for those who do read.
//
// One thread waits for the earliest of these times. It is not woken for every call: all times are
// as far away, so that the earliest is that of the call whose client moved longest ago.
//
// Thread safety: safe. Its lock is a leaf: nothing is called under it.
#ifndef PARALLAX_SERVER_OPEN_CALLS_H_
#define PARALLAX_SERVER_OPEN_CALLS_H_

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "grpcpp/server_context.h"

namespace parallax::server {

class OpenCalls {
 public:
  class Call;

  /// A `read_timeout` of 0 means for ever.
  explicit OpenCalls(absl::Duration read_timeout);
  /// REQUIRES: every call is closed.
  ~OpenCalls();
  OpenCalls(const OpenCalls&) = delete;
  OpenCalls& operator=(const OpenCalls&) = delete;

  /// `context` lives until Close.
  std::shared_ptr<Call> Open(grpc::CallbackServerContext* context);

  /// The call's answer waits for the client, who has just taken a part, or was given the first:
  /// it has `read_timeout` for the next.
  void AwaitReader(Call* call);

  /// gRPC is done with the call. At most waits while it is being cancelled.
  void Close(Call* call);

  /// Why the call was cancelled here; OK: it was not.
  absl::Status Reason(const Call& call) const;

  /// Waits until the calls that are open now are closed. False if `deadline`, or one of EndWait,
  /// passed first.
  bool AwaitClosed(absl::Time deadline);
  /// AwaitClosed, now or later, waits no longer than this.
  void EndWait(absl::Time deadline);

  /// Cancels every open call; returns how many that were.
  int CancelAll(const absl::Status& reason);

 private:
  using Clock = std::chrono::steady_clock;

  void Run();
  std::shared_ptr<Call> AwaitLate();
  bool AreClosedLocked(uint64_t last_serial) const PARALLAX_REQUIRES(mutex_);

  const absl::Duration read_timeout_;

  mutable Mutex mutex_;
  CondVar watch_changed_;  // from none to one, or stopping
  CondVar closed_;         // a call was, or the wait is to end
  std::list<std::shared_ptr<Call>> open_ PARALLAX_GUARDED_BY(mutex_);  // by serial
  std::list<Call*> watched_ PARALLAX_GUARDED_BY(mutex_);               // by deadline
  uint64_t last_serial_ PARALLAX_GUARDED_BY(mutex_) = 0;
  absl::Time end_wait_ PARALLAX_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool idle_ PARALLAX_GUARDED_BY(mutex_) = false;  // the thread waits for the first to watch
  bool stopping_ PARALLAX_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // none without a timeout
};

class OpenCalls::Call {
 public:
  explicit Call(grpc::CallbackServerContext* context) : context_(context) {}

 private:
  friend class OpenCalls;

  // May run gRPC's reactions, but not OnDone, which gRPC leaves to another thread.
  void TryCancel() {
    MutexLock lock(&context_mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }

  Mutex context_mutex_;
  grpc::CallbackServerContext* context_ PARALLAX_GUARDED_BY(context_mutex_);  // null: closed

  // OpenCalls::mutex_ guards these.
  uint64_t serial_ = 0;  // in the order of opening
  Clock::time_point deadline_;
  std::list<std::shared_ptr<Call>>::iterator open_;
  std::optional<std::list<Call*>::iterator> watched_;
  absl::Status reason_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_OPEN_CALLS_H_
