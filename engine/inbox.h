// Inbox: everything that other threads ask of the engine thread.
//
// Holds the registry of live requests (accepted and not yet ended) and the messages about
// them. Every queue is bounded: submissions by the queue limits, cancellations by the number
// of live requests (one each, the first wins), flushes by the threads that wait for them.
//
// Thread safety: Submit, CheckAccepts, Cancel, Abort, CancelAll, BeginDrain, AwaitEmpty,
// FlushPrefixCache, Stop and Counts may be called from any thread; the rest from the engine thread only.
#ifndef PARALLAX_ENGINE_INBOX_H_
#define PARALLAX_ENGINE_INBOX_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "engine/live_request.h"

namespace parallax {

class Inbox {
 public:
  struct Cancellation {
    LiveRequest* request;
    absl::Status status;
  };

  /// A thread that waits in FlushPrefixCache; lives on its stack.
  struct Flush {
    bool done = false;
    int32_t pages_freed = 0;
  };

  /// What the engine thread takes in at the one point where it listens.
  struct Messages {
    std::vector<LiveRequest*> submitted;  // in order of arrival
    std::vector<Cancellation> cancelled;
    std::vector<Flush*> flushes;
    bool stop = false;
    void Clear();
  };

  struct Counts {
    uint64_t submitted = 0;  // accepted since start
    int32_t live = 0;
    int32_t queued = 0;         // of them, never scheduled
    int64_t queued_tokens = 0;  // of their prompts
    bool draining = false;
    absl::Time busy_since;  // when `live` last rose from 0
  };

  /// `max_queued_tokens` 0: as many as the requests have.
  explicit Inbox(int32_t max_queued_requests, int64_t max_queued_tokens = 0);

  /// UNAVAILABLE (draining or broken), ALREADY_EXISTS, or RESOURCE_EXHAUSTED with a retry hint.
  absl::Status Submit(std::unique_ptr<LiveRequest> request);
  /// What Submit of a request with this id and this many prompt tokens would say now.
  absl::Status CheckAccepts(const std::string& id, int64_t prompt_tokens) const;

  /// Returns whether `id` is live, and its sink is `sink`.
  bool Cancel(std::string_view id, const TokenSink* sink, absl::Status status);
  /// Returns whether `id` is live, and was submitted by `principal`.
  bool Abort(std::string_view id, std::string_view principal, absl::Status status);
  void CancelAll(const absl::Status& status);

  void BeginDrain();
  /// Waits until no request is live; false if `deadline` passed first.
  bool AwaitEmpty(absl::Time deadline);

  /// Waits until the engine thread has answered; returns the pages it freed.
  int32_t FlushPrefixCache();
  /// Ends the engine thread after what it is doing.
  void Stop();
  Counts GetCounts() const;

  /// Takes all messages. With `wait`, blocks until there is one.
  void Take(bool wait, Messages* messages);
  /// `request` was scheduled for the first time, at `now`: its place in the queue is free.
  void LeaveQueue(LiveRequest* request, absl::Time now);
  /// Frees the request's id; later cancellations no longer reach it.
  std::unique_ptr<LiveRequest> Unregister(LiveRequest* request);
  /// A request that was unregistered has had its last event.
  void NoteEnded();
  void AnswerFlush(Flush* flush, int32_t pages_freed);
  /// Refuses every Submit from now on with `reason`.
  void Refuse(absl::Status reason);

 private:
  struct Entry {
    std::unique_ptr<LiveRequest> request;
    bool cancelled = false;
  };

  absl::Status CheckAcceptsLocked(const std::string& id, int64_t prompt_tokens) const
      PARALLAX_REQUIRES(mutex_);
  bool HasRoom(int64_t prompt_tokens) const PARALLAX_REQUIRES(mutex_);
  absl::Status QueueFull() const PARALLAX_REQUIRES(mutex_);
  void Leave(LiveRequest* request) PARALLAX_REQUIRES(mutex_);
  Entry* Find(std::string_view id) PARALLAX_REQUIRES(mutex_);
  void Enqueue(Entry* entry, absl::Status status) PARALLAX_REQUIRES(mutex_);

  const int32_t max_queued_requests_;
  const int64_t max_queued_tokens_;

  mutable Mutex mutex_;
  CondVar message_;  // something for the engine thread
  CondVar ended_;    // live_ fell to 0
  CondVar flushed_;
  Messages pending_ PARALLAX_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Entry> registry_ PARALLAX_GUARDED_BY(mutex_);
  absl::Status refusal_ PARALLAX_GUARDED_BY(mutex_);
  Counts counts_ PARALLAX_GUARDED_BY(mutex_);
  // Moving average of the time between two requests leaving a queue that holds more, for the
  // retry hint. A guess until two have left.
  absl::Duration leave_interval_ PARALLAX_GUARDED_BY(mutex_) = absl::Milliseconds(10);
  // The last leave, if requests have waited ever since; idle time is nobody's service time.
  absl::Time last_leave_ PARALLAX_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_INBOX_H_
