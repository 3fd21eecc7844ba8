// The random driver over many seeds: two million steps in all, a few seconds.
//
//   PARALLAX_DRIVER_STEPS=n  other number of steps (sanitizer builds)
//   PARALLAX_DRIVER_SEED=s   begin with this seed: reproduces a failure's first line
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "tests/engine/scheduler/scheduler_driver.h"

namespace parallax::testing {
namespace {

constexpr int64_t kStepsPerSeed = 200;

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoll(value);
}

std::ostream& operator<<(std::ostream& out, const DriverCounts& c) {
  return out << c.steps << " steps, " << c.tokens << " tokens, " << c.requests << " requests, "
             << c.cancelled << " choices cancelled, " << c.preemptions << " preemptions, "
             << c.page_copies << " page copies, " << c.prefix_hits << " prefix hits, "
             << c.forked_samples << " forked, " << c.tokens_from_slot << " tokens from slot, "
             << c.sat_out << " sat out";
}

class SchedulerRandomTest : public ::testing::TestWithParam<int> {
 protected:
  static constexpr int kModes = 8;
  static DriverMode Mode(int bits) {
    return {.steps_in_flight = (bits & 1) != 0 ? 2 : 1,
            .prefix_cache = (bits & 2) != 0,
            .sliding_window = (bits & 4) != 0};
  }
};

TEST_P(SchedulerRandomTest, KeepsItsPromises) {
  const DriverMode mode = Mode(GetParam());
  const int64_t steps = FromEnvironment("PARALLAX_DRIVER_STEPS", 2'000'000) / kModes;
  DriverCounts counts;
  uint64_t seed = static_cast<uint64_t>(FromEnvironment("PARALLAX_DRIVER_SEED", 1));
  for (; counts.steps < steps; ++seed) {
    SchedulerDriver driver(mode, seed);
    const std::string broken = driver.Run(kStepsPerSeed, &counts);
    ASSERT_EQ(broken, "") << "seed " << seed;
  }
  std::cout << counts << "\n";
  EXPECT_GT(counts.cancelled, 0);
  EXPECT_GT(counts.preemptions, 0);
  EXPECT_GT(counts.page_copies, 0);
  EXPECT_GT(counts.forked_samples, 0);
  EXPECT_EQ(counts.prefix_hits > 0, mode.prefix_cache);
  EXPECT_EQ(counts.tokens_from_slot > 0, mode.steps_in_flight > 1);
}

INSTANTIATE_TEST_SUITE_P(Modes, SchedulerRandomTest, ::testing::Range(0, 8),
                         [](const ::testing::TestParamInfo<int>& info) {
                           const int bits = info.param;
                           return std::string((bits & 1) != 0 ? "Two" : "One") + "InFlight" +
                                  ((bits & 2) != 0 ? "PrefixCache" : "NoPrefixCache") +
                                  ((bits & 4) != 0 ? "Window" : "NoWindow");
                         });

}  // namespace
}  // namespace parallax::testing
