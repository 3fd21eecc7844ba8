// Who waits for whom, and for how long: the bounds that engine.h and scheduler.h state.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/scheduler/scheduler_harness.h"

namespace parallax::testing {
namespace {

TEST(FairnessTest, ALongPromptDelaysNoDecode) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_num_batched_tokens = 64;
  SchedulerHarness harness(options);
  std::vector<SequenceGroup*> running;
  for (int i = 0; i < 4; ++i) running.push_back(harness.Add(Tokens(8, 100 * i), 200));
  harness.Step();
  SequenceGroup* long_prompt = harness.Add(Tokens(3000, 9000), 2);
  int steps = 0;
  while (First(long_prompt).num_generated() == 0) {
    const ScheduledBatch& batch = harness.Step();
    ++steps;
    for (SequenceGroup* group : running) {
      ASSERT_NE(EntryOf(batch, First(group)), nullptr) << "step " << steps;
    }
    ASSERT_LE(batch.prefill_tokens + batch.decode_tokens, 64);
    ASSERT_EQ(batch.decode_tokens, 4);
  }
  EXPECT_EQ(steps, 3000 / 60);  // and takes all of the budget that is left
}

TEST(FairnessTest, WithinAClassAdmissionIsInOrderOfArrival) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_num_seqs = 2;
  SchedulerHarness harness(options);
  for (int i = 0; i < 40; ++i) harness.Add(Tokens(1 + i * 7 % 200, i * 1000), 1 + i * 5 % 17);
  uint64_t last = 0;
  while (harness.HasWork()) {
    for (const Sequence* admitted : harness.Step().attached) {
      EXPECT_EQ(admitted->group->arrival, ++last);
    }
  }
  EXPECT_EQ(last, 40u);
}

// The oldest request is never preempted, whatever comes after it, and ends after as many
// steps as it has tokens.
TEST(FairnessTest, TheOldestIsNotHeldUpByPagePressure) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 5;
  SchedulerHarness harness(options);
  SequenceGroup* oldest = harness.Add(Tokens(10), 300);
  for (int i = 0; i < 20; ++i) harness.Add(Tokens(60, 1000 * i), 120);
  EXPECT_EQ(harness.RunToEnd(oldest), 300);
  EXPECT_EQ(harness.preemptions(First(oldest)), 0);
}

TEST(FairnessTest, WhatIsPreemptedRunsBeforeWhatCameLater) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 5;
  SchedulerHarness harness(options);
  std::vector<SequenceGroup*> groups;
  for (int i = 0; i < 12; ++i) groups.push_back(harness.Add(Tokens(60, 1000 * i), 120));
  int preemptions = 0;
  std::vector<uint64_t> ended;
  while (harness.HasWork() && !HasFailure()) {
    preemptions += harness.Step().preemptions;
    for (SequenceGroup* group : groups) {
      if (group->num_unfinished == 0 && std::ranges::count(ended, group->arrival) == 0) {
        ended.push_back(group->arrival);
      }
    }
  }
  EXPECT_GT(preemptions, 0);
  EXPECT_TRUE(std::ranges::is_sorted(ended));
}

}  // namespace
}  // namespace parallax::testing
