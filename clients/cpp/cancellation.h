// Cancellation: lets one thread end the calls of another.
//
// Pass the same object to any number of calls; Cancel ends the running ones with CANCELLED
// (the server then frees what they held) and the later ones before they start.
//
// Thread safety: all methods may be called from any thread.
#ifndef PARALLAX_CLIENTS_CPP_CANCELLATION_H_
#define PARALLAX_CLIENTS_CPP_CANCELLATION_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>

namespace parallax::client {

class Cancellation {
 public:
  Cancellation() = default;
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  /// Idempotent. Returns after every attached callback has run.
  void Cancel();
  bool cancelled() const;

  /// Waits for `delay`, or less if cancelled. Returns whether it was not cancelled.
  bool WaitFor(std::chrono::milliseconds delay);

 private:
  friend class CancellationScope;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool cancelled_ = false;                          // guarded by mutex_
  int next_id_ = 0;                                 // guarded by mutex_
  std::map<int, std::function<void()>> on_cancel_;  // guarded by mutex_
};

/// Waits for `delay`, or less if `cancellation` (which may be null) is cancelled. Returns
/// whether it was not.
bool WaitUnlessCancelled(Cancellation* cancellation, std::chrono::milliseconds delay);

/// Attaches `on_cancel` to a Cancellation (which may be null) for the enclosing scope. Runs
/// it at once if already cancelled. `on_cancel` must not block nor call the Cancellation;
/// it does not run after the scope's end.
class CancellationScope {
 public:
  CancellationScope(Cancellation* cancellation, std::function<void()> on_cancel);
  ~CancellationScope();
  CancellationScope(const CancellationScope&) = delete;
  CancellationScope& operator=(const CancellationScope&) = delete;

 private:
  Cancellation* const cancellation_;
  int id_ = 0;
};

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CANCELLATION_H_
