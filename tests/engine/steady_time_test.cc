#include "engine/base/steady_time.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"

namespace parallax {
namespace {

TEST(SteadyTimeTest, AgreesWithTheSystemUnlessThatSteps) {
  absl::Time before = SteadyNow();
  for (int i = 0; i < 1000; ++i) {
    const absl::Time now = SteadyNow();
    EXPECT_GE(now, before);
    before = now;
  }
  EXPECT_LT(absl::AbsDuration(SteadyNow() - absl::Now()), absl::Seconds(1));
}

TEST(SteadyTimeTest, ConvertsMomentsAndNever) {
  const absl::Time in_an_hour = SteadyFromSystem(absl::Now() + absl::Hours(1));
  EXPECT_LT(absl::AbsDuration(in_an_hour - SteadyNow() - absl::Hours(1)), absl::Seconds(1));
  EXPECT_EQ(SteadyFromSystem(absl::InfiniteFuture()), absl::InfiniteFuture());
}

}  // namespace
}  // namespace parallax
