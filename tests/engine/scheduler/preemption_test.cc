// Running out of pages, and two steps in flight.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/scheduler/scheduler_harness.h"

namespace parallax::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

SchedulerOptions FourPages() {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 4;
  return options;
}

SchedulerOptions TwoInFlight() {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_steps_in_flight = 2;
  return options;
}

TEST(PreemptionTest, TheLatestGivesWayAndKeepsItsTokens) {
  SchedulerHarness harness(FourPages());
  SequenceGroup* first = harness.Add(Tokens(126), 100);
  SequenceGroup* second = harness.Add(Tokens(120, 7000), 20);
  harness.Step();
  harness.Step();
  harness.Step();
  EXPECT_EQ(First(second).num_generated(), 3);
  const ScheduledBatch& batch = harness.Step();  // `first` needs a third page
  EXPECT_EQ(batch.preemptions, 1);
  EXPECT_EQ(EntryOf(batch, First(second)), nullptr);
  EXPECT_THAT(batch.detached_slots, SizeIs(1));
  EXPECT_EQ(First(second).num_generated(), 3);
  EXPECT_EQ(First(second).state, SequenceState::kWaiting);
  harness.RunToEnd(first);
  EXPECT_EQ(harness.preemptions(First(first)), 0);
  harness.RunToEnd(second);
  EXPECT_EQ(First(second).num_generated(), 20);
}

TEST(PreemptionTest, TheWorstPriorityGivesWayBeforeTheLatest) {
  SchedulerHarness harness(FourPages());
  Request request = SchedulerHarness::MakeRequest(Tokens(60, 7000), 100);
  request.priority = 5;
  SequenceGroup* worst = harness.Add(request);
  harness.Step();
  SequenceGroup* growing = harness.Add(Tokens(63), 100);
  SequenceGroup* last = harness.Add(Tokens(60, 3000), 50);
  while (harness.Step().preemptions == 0) {
  }
  EXPECT_EQ(harness.preemptions(First(worst)), 1);
  EXPECT_EQ(harness.preemptions(First(growing)) + harness.preemptions(First(last)), 0);
  harness.RunToEnd(last);
}

TEST(PreemptionTest, RecomputesFromThePrefixCacheWhereItCan) {
  SchedulerHarness harness(FourPages());
  harness.Add(Tokens(126), 5);
  SequenceGroup* second = harness.Add(Tokens(120, 7000), 30);
  while (harness.Step().preemptions == 0) {
  }
  while (First(second).state == SequenceState::kWaiting) {
    harness.Step();
  }
  EXPECT_GE(First(second).num_computed, 64);  // its first page was still there
  EXPECT_EQ(second->cached_tokens, 0);        // which is not a hit to boast of
}

TEST(PreemptionTest, ForkedChoicesThatFindNoPageRunOneByOne) {
  SchedulerHarness harness(FourPages());
  SequenceGroup* group = harness.Add(Tokens(120), 100, /*n=*/4);
  harness.RunToEnd(group);
  for (const auto& choice : group->sequences) {
    EXPECT_EQ(choice->num_generated(), 100);
  }
  EXPECT_EQ(harness.preemptions(First(group)), 0);
  EXPECT_GT(harness.preemptions(*group->sequences[3]), 0);
}

TEST(PreemptionTest, AnUnforkedGroupIsPreemptedAsOne) {
  SchedulerOptions options = FourPages();
  options.max_num_batched_tokens = 20;
  SchedulerHarness harness(options);
  SequenceGroup* first = harness.Add(Tokens(60), 50);
  while (First(first).num_generated() == 0) {
    harness.Step();
  }
  SequenceGroup* group = harness.Add(Tokens(192, 9000), 2, /*n=*/3);
  while (harness.Step().preemptions == 0) {
    ASSERT_EQ(First(group).state, SequenceState::kRunning);
    ASSERT_EQ(group->sequences[1]->state, SequenceState::kForking);
  }
  for (const auto& choice : group->sequences) {
    EXPECT_EQ(choice->state, SequenceState::kWaiting);
    EXPECT_EQ(choice->slot, -1);
  }
  harness.RunToEnd(group);
  EXPECT_EQ(harness.preemptions(First(first)), 0);
  EXPECT_EQ(group->sequences[2]->num_generated(), 2);
}

TEST(TwoInFlightTest, SchedulesOnTokensItDoesNotKnowButNotPastMaxTokens) {
  SchedulerHarness harness(TwoInFlight());
  SequenceGroup* group = harness.Add(Tokens(5), 2);
  ASSERT_NE(harness.Schedule(), nullptr);
  const ScheduledBatch* second = harness.Schedule();
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->sequences[0].first_position, 5);
  EXPECT_EQ(second->samples[0].output_position, 1);
  EXPECT_EQ(First(group).pending, 2);
  harness.Complete();
  EXPECT_EQ(harness.Schedule(), nullptr);  // both tokens are sampled
  harness.Complete();
  EXPECT_EQ(First(group).state, SequenceState::kFinished);
  EXPECT_EQ(First(group).num_generated(), 2);
}

TEST(TwoInFlightTest, PagesAndSlotsOutliveTheirSequenceUntilItsStepsAreDone) {
  SchedulerHarness harness(TwoInFlight());
  SequenceGroup* group = harness.Add(Tokens(5), 9);
  harness.Schedule();
  harness.Schedule();
  harness.scheduler().Finish(&First(group));
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 1);
  harness.Complete();
  EXPECT_FALSE(harness.scheduler().IsReleased(*group));
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 1);
  harness.Complete();
  EXPECT_TRUE(harness.scheduler().IsReleased(*group));
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 0);
  EXPECT_EQ(First(group).num_generated(), 0);  // sampled after its end: dropped
}

TEST(TwoInFlightTest, APreemptedSequenceKeepsTheTokenThatIsBeingSampled) {
  SchedulerOptions options = TwoInFlight();
  options.num_pages = 4;
  SchedulerHarness harness(options);
  SequenceGroup* first = harness.Add(Tokens(127), 100);
  SequenceGroup* second = harness.Add(Tokens(120, 7000), 20);
  harness.Schedule();  // both prefills
  harness.Schedule();  // decodes at 127 and 120
  harness.Complete();
  const ScheduledBatch* third = harness.Schedule();  // `first` crosses into a third page
  EXPECT_EQ(third, nullptr);                         // which comes back with the step in flight
  EXPECT_EQ(First(second).state, SequenceState::kWaiting);
  EXPECT_EQ(First(second).pending, 1);
  harness.Complete();
  EXPECT_EQ(First(second).num_generated(), 2);
  EXPECT_EQ(First(second).slot, -1);
  const ScheduledBatch* next = harness.Schedule();
  ASSERT_NE(next, nullptr);
  EXPECT_NE(EntryOf(*next, First(first)), nullptr);
  EXPECT_EQ(next->preemptions, 1);
  EXPECT_EQ(harness.preemptions(First(first)), 0);
}

TEST(TwoInFlightTest, ACopyHoldsItsSourceUntilItsStepIsDone) {
  SchedulerHarness harness(TwoInFlight());
  SequenceGroup* group = harness.Add(Tokens(10), 9, /*n=*/2);
  harness.Schedule();
  const ScheduledBatch* copying = harness.Schedule();
  ASSERT_NE(copying, nullptr);
  ASSERT_THAT(copying->page_copies, SizeIs(1));
  harness.Complete();
  harness.scheduler().Finish(&First(group));
  harness.scheduler().Finish(group->sequences[1].get());
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 2);
  harness.Complete();
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 0);
}

}  // namespace
}  // namespace parallax::testing
