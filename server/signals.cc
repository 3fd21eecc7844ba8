#include "server/signals.h"

#include <pthread.h>
#include <signal.h>

#include <csignal>
#include <utility>

#include "engine/base/thread_name.h"

namespace parallax::server {
namespace {

// SIGUSR2 is the destructor's way to end the thread's sigwait.
sigset_t HandledSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) sigaddset(&set, signal);
  return set;
}

}  // namespace

SignalThread::SignalThread() {
  const sigset_t set = HandledSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

SignalThread::~SignalThread() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(&mutex_);
    quitting_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGUSR2);
  thread_.join();
}

void SignalThread::Start(Callbacks callbacks) {
  callbacks_ = std::move(callbacks);
  thread_ = std::thread(&SignalThread::Run, this);
}

void SignalThread::AwaitStop() {
  MutexLock lock(&mutex_);
  while (!stop_received_) changed_.Wait(&mutex_);
}

void SignalThread::OnStop(bool first) {
  if (!first) return callbacks_.later_stop();
  callbacks_.first_stop();
  MutexLock lock(&mutex_);
  stop_received_ = true;
  changed_.NotifyAll();
}

void SignalThread::Run() {
  NameThisThread("signals");
  const sigset_t set = HandledSignals();
  bool first_stop = true;
  for (;;) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    if (signal == SIGHUP) callbacks_.reload();
    if (signal == SIGTERM || signal == SIGINT) OnStop(std::exchange(first_stop, false));
    if (signal == SIGUSR2) {
      MutexLock lock(&mutex_);
      if (quitting_) return;
    }
  }
}

}  // namespace parallax::server
