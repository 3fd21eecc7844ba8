#include "server/health_monitor.h"

#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/fake_engine.h"

namespace parallax::server {
namespace {

using ::testing::HasSubstr;

TEST(JudgeHealthTest, ReportsWhatIsWrong) {
  const absl::Time now = absl::Now();
  EngineStats stats;
  stats.last_progress = now - absl::Hours(1);
  EXPECT_TRUE(JudgeHealth(stats, absl::Seconds(1), now).ok()) << "idle is healthy";
  stats.idle = false;
  EXPECT_THAT(std::string(JudgeHealth(stats, absl::Seconds(1), now).message()),
              HasSubstr("no step completed for 1h"));
  stats.last_progress = now - absl::Milliseconds(999);
  EXPECT_TRUE(JudgeHealth(stats, absl::Seconds(1), now).ok());
  stats.draining = true;
  EXPECT_EQ(JudgeHealth(stats, absl::Seconds(1), now).message(), "draining");
  stats.health = absl::InternalError("device lost");
  EXPECT_THAT(std::string(JudgeHealth(stats, absl::Seconds(1), now).message()),
              HasSubstr("device lost"));
}

// Collects announcements and lets a test wait for them.
class Announcements {
 public:
  void Add(bool serving) {
    MutexLock lock(&mutex_);
    all_.push_back(serving);
    changed_.NotifyAll();
  }
  std::vector<bool> Await(size_t count) {
    MutexLock lock(&mutex_);
    while (all_.size() < count) changed_.Wait(&mutex_);
    return all_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<bool> all_ PARALLAX_GUARDED_BY(mutex_);
};

TEST(HealthMonitorTest, SeesAStuckEngineAndItsRecovery) {
  FakeEngine engine;
  Announcements announcements;
  const Logger logger(LogLevel::kError);
  HealthMonitor monitor(
      &engine, absl::Milliseconds(40), [&](bool serving) { announcements.Add(serving); }, {},
      &logger);
  EXPECT_EQ(announcements.Await(1), std::vector<bool>({true}));

  EngineStats stuck;
  stuck.idle = false;
  stuck.last_progress = absl::Now();
  engine.SetStats(stuck);
  EXPECT_EQ(announcements.Await(2), std::vector<bool>({true, false}));
  EXPECT_GE(absl::Now() - stuck.last_progress, absl::Milliseconds(40));
  EXPECT_FALSE(monitor.Judge().ok());

  engine.SetStats(EngineStats());
  EXPECT_EQ(announcements.Await(3), std::vector<bool>({true, false, true}));
}

TEST(HealthMonitorTest, RefreshAnnouncesAtOnceAndOnlyChanges) {
  FakeEngine engine;
  Announcements announcements;
  const Logger logger(LogLevel::kError);
  HealthMonitor monitor(
      &engine, absl::Hours(1), [&](bool serving) { announcements.Add(serving); }, {}, &logger);
  monitor.Refresh();
  engine.BeginDrain();
  monitor.Refresh();
  monitor.Refresh();
  EXPECT_EQ(announcements.Await(2), std::vector<bool>({true, false}));
}

TEST(HealthMonitorTest, TellsOfABrokenEngineOnce) {
  FakeEngine engine;
  Announcements announcements;
  const Logger logger(LogLevel::kError);
  int told = 0;
  HealthMonitor monitor(
      &engine, absl::Hours(1), [&](bool serving) { announcements.Add(serving); },
      [&] {
        ++told;
        EXPECT_EQ(announcements.Await(2), std::vector<bool>({true, false}));
      },
      &logger);
  EngineStats broken;
  broken.health = absl::InternalError("step 7: cudaErrorIllegalAddress");
  engine.SetStats(broken);
  monitor.Refresh();
  monitor.Refresh();
  EXPECT_EQ(told, 1);
}

}  // namespace
}  // namespace parallax::server
