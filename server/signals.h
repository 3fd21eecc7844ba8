// SignalThread: SIGTERM, SIGINT and SIGHUP as ordinary calls on a thread of their own.
//
// The signals are blocked in every thread and taken with sigwait: nothing runs in a signal
// handler. Make it in main before any other thread, which then inherit the mask.
//
// Thread safety: made and destroyed by one thread; the callbacks run on the signal thread,
// one at a time.
#ifndef PARALLAX_SERVER_SIGNALS_H_
#define PARALLAX_SERVER_SIGNALS_H_

#include <functional>
#include <thread>

#include "engine/base/mutex.h"

namespace parallax::server {

class SignalThread {
 public:
  /// Blocks the signals; SIGPIPE is ignored (a closed connection is an error of its write).
  SignalThread();
  /// Stops the thread. The signals stay blocked.
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

  struct Callbacks {
    std::function<void()> first_stop;  // the first SIGTERM or SIGINT
    std::function<void()> later_stop;  // each one after it
    std::function<void()> reload;      // SIGHUP
  };
  /// Signals that came since construction are acted on now.
  void Start(Callbacks callbacks);

  /// Waits until the first SIGTERM or SIGINT was received and acted on.
  void AwaitStop();

 private:
  void Run();
  void OnStop(bool first);

  Callbacks callbacks_;
  Mutex mutex_;
  CondVar changed_;
  bool stop_received_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool quitting_ PARALLAX_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_SIGNALS_H_
