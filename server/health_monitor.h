// HealthMonitor: decides whether the server is fit for traffic, and says so.
//
// Fit means: the engine is not broken, not draining, and makes progress: while there is
// work, a step is completed at least every `stall_timeout`. A thread of its own looks
// at least once a second, so that a hung step is seen from outside; Refresh looks at once.
// A broken engine does not recover: whoever owns the process is told, once, to end it.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_HEALTH_MONITOR_H_
#define PARALLAX_SERVER_HEALTH_MONITOR_H_

#include <functional>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "server/logger.h"

namespace parallax::server {

/// OK, or UNAVAILABLE with the reason. `now` decides whether the engine has stalled.
absl::Status JudgeHealth(const EngineStats& stats, absl::Duration stall_timeout, absl::Time now);

class HealthMonitor {
 public:
  using SetServing = std::function<void(bool serving)>;

  /// `set_serving` is called with the first judgement, then with each change, never twice
  /// at once. `on_engine_failed` (may be empty) is called at most once, after set_serving(false).
  /// Engine and logger outlive the monitor.
  HealthMonitor(const Engine* engine, absl::Duration stall_timeout, SetServing set_serving,
                std::function<void()> on_engine_failed, const Logger* logger);
  ~HealthMonitor();
  HealthMonitor(const HealthMonitor&) = delete;
  HealthMonitor& operator=(const HealthMonitor&) = delete;

  /// Judges now and tells of a change.
  void Refresh();
  /// The same, and returns the judgement.
  absl::Status Judge();

 private:
  void Watch();
  void Announce(const absl::Status& health) PARALLAX_REQUIRES(mutex_);

  const Engine& engine_;
  const absl::Duration stall_timeout_;
  const SetServing set_serving_;
  const std::function<void()> on_engine_failed_;
  const Logger& logger_;

  Mutex mutex_;
  CondVar stop_requested_;
  bool stopping_ PARALLAX_GUARDED_BY(mutex_) = false;
  absl::Status announced_ PARALLAX_GUARDED_BY(mutex_);
  bool failure_told_ PARALLAX_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_HEALTH_MONITOR_H_
