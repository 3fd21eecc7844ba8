#include "server/health_monitor.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/steady_time.h"
#include "engine/base/thread_name.h"

namespace parallax::server {
namespace {

// A stall is noticed at most a quarter of the timeout late, a broken engine within a second.
constexpr int kLooksPerTimeout = 4;
constexpr absl::Duration kLongestInterval = absl::Seconds(1);

}  // namespace

absl::Status JudgeHealth(const EngineStats& stats, absl::Duration stall_timeout, absl::Time now) {
  if (!stats.health.ok()) {
    return absl::UnavailableError(absl::StrCat("engine failed: ", stats.health.message()));
  }
  if (stats.draining) return absl::UnavailableError("draining");
  if (!stats.idle && now - stats.last_progress > stall_timeout) {
    return absl::UnavailableError(absl::StrCat("no step completed for ",
                                               absl::FormatDuration(now - stats.last_progress),
                                               " although there is work"));
  }
  return absl::OkStatus();
}

HealthMonitor::HealthMonitor(const Engine* engine, absl::Duration stall_timeout,
                             SetServing set_serving, std::function<void()> on_engine_failed,
                             const Logger* logger)
    : engine_(*engine),
      stall_timeout_(stall_timeout),
      set_serving_(std::move(set_serving)),
      on_engine_failed_(std::move(on_engine_failed)),
      logger_(*logger),
      announced_(absl::UnknownError("not judged yet")) {
  Refresh();
  thread_ = std::thread(&HealthMonitor::Watch, this);
}

HealthMonitor::~HealthMonitor() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  stop_requested_.NotifyAll();
  thread_.join();
}

void HealthMonitor::Refresh() { Judge().IgnoreError(); }

absl::Status HealthMonitor::Judge() {
  MutexLock lock(&mutex_);
  const EngineStats stats = engine_.Stats();
  const absl::Status health = JudgeHealth(stats, stall_timeout_, SteadyNow());
  Announce(health);
  if (!stats.health.ok() && !failure_told_) {
    failure_told_ = true;
    if (on_engine_failed_) on_engine_failed_();
  }
  return health;
}

void HealthMonitor::Announce(const absl::Status& health) {
  // The message of a stall grows older with every look: only the code is a change.
  if (health.code() == announced_.code()) return;
  announced_ = health;
  set_serving_(health.ok());
  if (health.ok()) {
    logger_.Info("health", {{"status", "SERVING"}});
  } else {
    logger_.Warning("health",
                    {{"status", "NOT_SERVING"}, {"reason", std::string(health.message())}});
  }
}

void HealthMonitor::Watch() {
  NameThisThread("health");
  const auto interval =
      absl::ToChronoNanoseconds(std::min(stall_timeout_ / kLooksPerTimeout, kLongestInterval));
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const auto next_look = std::chrono::steady_clock::now() + interval;
      while (!stopping_ && stop_requested_.WaitUntil(&mutex_, next_look)) {
      }
      if (stopping_) return;
    }
    Refresh();
  }
}

}  // namespace parallax::server
