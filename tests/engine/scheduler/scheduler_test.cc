// Admission, chunked prefill, prefix hits, forks, the end of a sequence.
#include "engine/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/engine/scheduler/scheduler_harness.h"

namespace parallax::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(SchedulerFitTest, RefusesWhatCouldNeverRun) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 4;
  const Scheduler scheduler(options);
  const auto message = [&](int32_t prompt, int32_t max_tokens, int32_t n) {
    return std::string(
        scheduler.CheckFits(SchedulerHarness::MakeRequest(Tokens(prompt), max_tokens, n))
            .message());
  };
  EXPECT_EQ(message(200, 57, 1), "");  // 256 positions are written, the last token is not
  EXPECT_THAT(message(200, 58, 1), HasSubstr("max_tokens: 200 prompt tokens and max_tokens 58 "
                                             "take 5 KV pages of 64 tokens, but there are 4"));
  EXPECT_THAT(message(4000, 97, 1), HasSubstr("exceed the context of 4096 tokens"));
  EXPECT_THAT(message(1, 1, 9), HasSubstr("n: 9 choices, but at most 8 run at once"));
  EXPECT_THAT(message(0, 1, 1), HasSubstr("prompt: empty"));
}

TEST(SchedulerTest, PrefillsInChunksWithinTheBudgetAndReservesAllPagesAtOnce) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_prefill_chunk = 100;
  SchedulerHarness harness(options);
  SequenceGroup* group = harness.Add(Tokens(250), 4);
  const ScheduledBatch& first = harness.Step();
  EXPECT_THAT(first.attached, ElementsAre(&First(group)));
  EXPECT_EQ(first.prefill_tokens, 100);
  EXPECT_THAT(first.samples, IsEmpty());
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 4);
  EXPECT_EQ(harness.Step().sequences[0].first_position, 100);
  const ScheduledBatch& last = harness.Step();
  EXPECT_EQ(last.prefill_tokens, 50);
  EXPECT_THAT(last.samples, SizeIs(1));
  EXPECT_EQ(First(group).num_generated(), 1);
  const ScheduledBatch& decode = harness.Step();
  EXPECT_TRUE(decode.sequences[0].decode);
  EXPECT_EQ(decode.samples[0].output_position, 1);
}

TEST(SchedulerTest, PromptsTakeLessOfAStepWhileOthersDecode) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_mixed_prefill_tokens = 30;
  SchedulerHarness harness(options);
  harness.Add(Tokens(100), 4);
  EXPECT_EQ(harness.Step().prefill_tokens, 100);
  harness.Add(Tokens(80, 5000), 1);
  harness.Add(Tokens(40, 9000), 1);
  for (int i = 0; i < 3; ++i) {
    const ScheduledBatch& mixed = harness.Step();
    EXPECT_EQ(mixed.decode_tokens, 1);
    EXPECT_EQ(mixed.prefill_tokens, 30);
  }
  const ScheduledBatch& alone = harness.Step();
  EXPECT_EQ(alone.decode_tokens, 0);
  EXPECT_EQ(alone.prefill_tokens, 30);
}

TEST(SchedulerTest, RunningPromptsGoOnBeforeWaitingOnesBegin) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_num_batched_tokens = 100;
  SchedulerHarness harness(options);
  SequenceGroup* first = harness.Add(Tokens(150), 2);
  SequenceGroup* second = harness.Add(Tokens(150, 9000), 2);
  EXPECT_THAT(harness.Step().sequences, SizeIs(1));
  const ScheduledBatch& both = harness.Step();
  EXPECT_EQ(EntryOf(both, First(first))->num_tokens, 50);
  EXPECT_EQ(EntryOf(both, First(second))->num_tokens, 50);
}

std::vector<const Sequence*> SequencesOf(const ScheduledBatch& batch) {
  std::vector<const Sequence*> sequences;
  for (const ScheduledSequence& entry : batch.sequences) sequences.push_back(entry.sequence);
  return sequences;
}

// Whatever policy says about their order; a prefill comes after them, however long it is.
TEST(SchedulerTest, DecodesGoLongestContextFirst) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_steps_in_flight = 2;
  SchedulerHarness harness(options);
  const auto add = [&](int32_t prompt, int32_t max_tokens, int32_t priority) {
    Request request = SchedulerHarness::MakeRequest(Tokens(prompt), max_tokens);
    request.priority = priority;
    return &First(harness.Add(request));
  };
  const Sequence* const low = add(10, 9, /*priority=*/0);
  const Sequence* const high = add(30, 9, /*priority=*/1);
  const Sequence* const twin = add(30, 9, /*priority=*/1);
  const Sequence* const mid = add(20, 4, /*priority=*/2);
  EXPECT_THAT(SequencesOf(harness.Step()), ElementsAre(low, high, twin, mid));
  ASSERT_NE(harness.Schedule(), nullptr);  // stays in flight
  const Sequence* const newcomer = add(100, 9, /*priority=*/-1);
  const ScheduledBatch* const mixed = harness.Schedule();
  ASSERT_NE(mixed, nullptr);
  EXPECT_THAT(SequencesOf(*mixed), ElementsAre(high, twin, mid, low, newcomer));
  ASSERT_THAT(mixed->samples, SizeIs(5));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(mixed->samples[i].sequence, mixed->sequences[i].sequence);
  harness.Complete();
  harness.Complete();
  EXPECT_THAT(SequencesOf(harness.Step()), ElementsAre(newcomer, high, twin, mid, low));
  EXPECT_THAT(SequencesOf(harness.Step()), ElementsAre(newcomer, high, twin, low));
}

TEST(SchedulerTest, TheHeadOfTheQueueIsNotOvertaken) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 8;
  SchedulerHarness harness(options);
  SequenceGroup* running = harness.Add(Tokens(5 * 64), 3);
  SequenceGroup* large = harness.Add(Tokens(5 * 64, 5000), 1);
  Request worse = SchedulerHarness::MakeRequest(Tokens(1), 1);
  worse.priority = 1;
  SequenceGroup* small = harness.Add(Tokens(1), 1);
  SequenceGroup* least = harness.Add(worse);
  Request better = SchedulerHarness::MakeRequest(Tokens(1), 1);
  better.priority = -1;
  SequenceGroup* urgent = harness.Add(better);

  EXPECT_THAT(harness.Step().attached, ElementsAre(&First(urgent), &First(running)));
  while (running->num_unfinished > 0) {
    EXPECT_EQ(First(small).state, SequenceState::kWaiting);
    harness.Step();
  }
  EXPECT_THAT(harness.Step().attached, ElementsAre(&First(large), &First(small), &First(least)));
}

TEST(SchedulerTest, AGroupWaitsForTheSlotsOfAllItsChoices) {
  SchedulerHarness harness(SchedulerHarness::Options());
  SequenceGroup* first = harness.Add(Tokens(3), 2, /*n=*/5);
  SequenceGroup* second = harness.Add(Tokens(3, 70), 2, /*n=*/4);
  EXPECT_THAT(harness.Step().attached, SizeIs(5));
  harness.RunToEnd(first);
  EXPECT_THAT(harness.Step().attached, SizeIs(4));
  EXPECT_EQ(harness.scheduler().Counts().groups_running, 1);
  harness.RunToEnd(second);
}

TEST(SchedulerTest, AQueuedGroupHoldsItsPromptOnce) {
  SchedulerHarness harness(SchedulerHarness::Options());
  SequenceGroup* group = harness.Add(Tokens(200), 1000, /*n=*/3);
  EXPECT_LT(First(group).tokens.capacity(), 1000);
  for (int choice : {1, 2}) {
    EXPECT_EQ(group->sequences[choice]->tokens.capacity(), 0);
    EXPECT_EQ(group->sequences[choice]->num_generated(), 0);
  }
  harness.Step();
  for (const auto& sequence : group->sequences) EXPECT_GE(sequence->tokens.capacity(), 1200);
}

TEST(SchedulerTest, ReusesAPrefixOnceItsStepIsCompleted) {
  SchedulerHarness harness(SchedulerHarness::Options());
  harness.Add(Tokens(130), 1);
  harness.Add(Tokens(130), 1);
  EXPECT_EQ(harness.Step().prefix_hit_tokens, 0);  // both in one step: nothing written yet
  SequenceGroup* third = harness.Add(Tokens(140), 1);
  const ScheduledBatch& batch = harness.Step();
  EXPECT_EQ(batch.prefix_query_tokens, 140);
  EXPECT_EQ(batch.prefix_hit_tokens, 128);
  EXPECT_EQ(third->cached_tokens, 128);
  EXPECT_EQ(batch.prefill_tokens, 12);
  EXPECT_THAT(batch.page_copies, IsEmpty());
}

TEST(SchedulerTest, AFullHitComputesOneTokenIntoACopyOfTheLastPage) {
  SchedulerHarness harness(SchedulerHarness::Options());
  harness.RunToEnd(harness.Add(Tokens(128), 1));
  SequenceGroup* again = harness.Add(Tokens(128), 2);
  const ScheduledBatch& batch = harness.Step();
  EXPECT_EQ(batch.prefill_tokens, 1);
  EXPECT_EQ(again->cached_tokens, 127);
  ASSERT_THAT(batch.page_copies, SizeIs(1));
  EXPECT_EQ(batch.page_copies[0].dst, First(again).block_table.page(1));
  EXPECT_NE(batch.page_copies[0].src, batch.page_copies[0].dst);
}

TEST(SchedulerTest, AFullHitWithoutAPageForTheCopyComputesTheLastPageAgain) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 2;
  SchedulerHarness harness(options);
  harness.RunToEnd(harness.Add(Tokens(128), 1));
  SequenceGroup* again = harness.Add(Tokens(128), 1);
  const ScheduledBatch& batch = harness.Step();
  EXPECT_EQ(batch.prefill_tokens, 64);
  EXPECT_EQ(again->cached_tokens, 64);
  EXPECT_THAT(batch.page_copies, IsEmpty());
}

TEST(SchedulerTest, TenantsShareNothing) {
  SchedulerHarness harness(SchedulerHarness::Options());
  harness.RunToEnd(harness.Add(Tokens(128), 1));
  Request request = SchedulerHarness::MakeRequest(Tokens(128), 1);
  request.tenant = "other";
  harness.Add(request);
  EXPECT_EQ(harness.Step().prefix_hit_tokens, 0);
}

TEST(SchedulerTest, PromptLogprobsTakeNoHitsAndScoreEachTokenOnce) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_prefill_chunk = 50;
  SchedulerHarness harness(options);
  harness.RunToEnd(harness.Add(Tokens(128), 1));
  Request request = SchedulerHarness::MakeRequest(Tokens(128), 1);
  request.sampling.prompt_logprobs = 3;
  SequenceGroup* group = harness.Add(request);
  int32_t next = 1;
  while (group->num_unfinished > 0) {
    const ScheduledSequence& entry = harness.Step().sequences[0];
    EXPECT_EQ(entry.first_target, next);
    next += entry.num_targets;
  }
  EXPECT_EQ(next, 128);
  EXPECT_EQ(group->cached_tokens, 0);
}

TEST(SchedulerTest, ChoicesForkFromOnePrefillAndCopyItsLastPage) {
  SchedulerHarness harness(SchedulerHarness::Options());
  SequenceGroup* group = harness.Add(Tokens(70), 3, /*n=*/3);
  const ScheduledBatch& prefill = harness.Step();
  EXPECT_EQ(prefill.prefill_tokens, 70);
  ASSERT_THAT(prefill.samples, SizeIs(3));
  EXPECT_FALSE(prefill.samples[0].forked);
  EXPECT_TRUE(prefill.samples[1].forked);
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 2);

  const ScheduledBatch& decode = harness.Step();
  EXPECT_EQ(decode.decode_tokens, 3);
  ASSERT_THAT(decode.page_copies, SizeIs(2));  // the last holder writes in place
  EXPECT_EQ(decode.page_copies[0].src, decode.page_copies[1].src);
  EXPECT_EQ(group->sequences[2]->block_table.page(1), decode.page_copies[0].src);
  EXPECT_EQ(group->sequences[0]->block_table.page(0), group->sequences[2]->block_table.page(0));
  EXPECT_THAT(harness.Step().page_copies, IsEmpty());
}

TEST(SchedulerTest, AForkAtAPageBoundaryCopiesNothing) {
  SchedulerHarness harness(SchedulerHarness::Options());
  harness.Add(Tokens(64), 3, /*n=*/2);
  harness.Step();
  EXPECT_THAT(harness.Step().page_copies, IsEmpty());
}

TEST(SchedulerTest, AGroupThatEndsBeforeItsForkEndsAsAWhole) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_prefill_chunk = 40;
  SchedulerHarness harness(options);
  SequenceGroup* group = harness.Add(Tokens(70), 2, /*n=*/3);
  harness.Step();
  harness.scheduler().FinishGroup(group);
  EXPECT_EQ(harness.Schedule(), nullptr);
  EXPECT_TRUE(harness.scheduler().IsReleased(*group));
  EXPECT_EQ(harness.scheduler().Counts().pages_used, 0);
  harness.RemoveReleased();
  harness.Add(Tokens(5, 7000), 1);
  EXPECT_THAT(harness.Step().detached_slots, SizeIs(3));
}

TEST(SchedulerTest, RefusesWhatNoPagesHoldHoweverLongTheContext) {
  static_assert(PagesForTokens(INT32_MAX) == 1 << 25);
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_context_tokens = INT32_MAX;
  const Scheduler scheduler(options);
  const Request request = SchedulerHarness::MakeRequest(Tokens(5), INT32_MAX - 5);
  EXPECT_EQ(scheduler.CheckFits(request).code(), absl::StatusCode::kInvalidArgument);
}

TEST(SchedulerTest, AnAbsurdMaxTokensTakesNoMemoryUpFront) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 1 << 19;
  options.max_context_tokens = 1 << 25;
  SchedulerHarness harness(options);
  SequenceGroup* group = harness.Add(Tokens(5), (1 << 25) - 5);
  harness.Step();
  EXPECT_LT(First(group).tokens.capacity(), size_t{1} << 20);
}

// A queue of long prompts with many choices must cost a prompt each, also when it is dropped.
TEST(SchedulerTest, AQueuedRequestNeverCopiesItsPrompt) {
  SchedulerHarness harness(SchedulerHarness::Options());
  SequenceGroup* group = harness.Add(Tokens(1000), 2, /*n=*/8);
  const auto copies = [&] {
    return std::ranges::count_if(group->sequences,
                                 [](const auto& choice) { return choice->tokens.capacity() > 0; });
  };
  EXPECT_EQ(copies(), 0);
  harness.scheduler().FinishGroup(group);
  EXPECT_EQ(copies(), 0);
  EXPECT_EQ(group->num_unfinished, 0);
  EXPECT_EQ(harness.Schedule(), nullptr);
}

TEST(SchedulerTest, SuspectPagesLeaveThePrefixCache) {
  SchedulerHarness harness(SchedulerHarness::Options());
  SequenceGroup* group = harness.Add(Tokens(130), 9);
  harness.Step();
  harness.scheduler().FinishGroupUncached(group);
  EXPECT_EQ(harness.scheduler().Counts().pages_cached, 0);
  harness.Add(Tokens(130), 1);
  EXPECT_EQ(harness.Step().prefix_hit_tokens, 0);
}

TEST(SchedulerTest, FlushFreesCachedPages) {
  SchedulerHarness harness(SchedulerHarness::Options());
  harness.RunToEnd(harness.Add(Tokens(130), 1));
  EXPECT_EQ(harness.scheduler().Counts().pages_cached, 2);
  EXPECT_EQ(harness.scheduler().FlushPrefixCache(), 2);
  EXPECT_EQ(harness.scheduler().Counts().pages_cached, 0);
}

TEST(SchedulerTest, DetachedSlotsWaitForAStepThatTellsOfThem) {
  SchedulerHarness harness(SchedulerHarness::Options());
  harness.RunToEnd(harness.Add(Tokens(10), 1));
  EXPECT_EQ(harness.Schedule(), nullptr);
  EXPECT_FALSE(harness.HasWork());
  harness.RemoveReleased();
  harness.Add(Tokens(10), 1);
  EXPECT_THAT(harness.Step().detached_slots, ElementsAre(0));
}

TEST(SchedulerTest, PagesBehindTheWindowAreFreed) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.sliding_window = 100;
  options.max_prefill_chunk = 64;
  options.num_pages = 4;  // a window and a chunk touch no more
  options.enable_prefix_cache = false;
  SchedulerHarness harness(options);
  SequenceGroup* group = harness.Add(Tokens(1000), 100);
  harness.RunToEnd(group);
  EXPECT_EQ(First(group).num_generated(), 100);
  EXPECT_EQ(harness.preemptions(First(group)), 0);
}

}  // namespace
}  // namespace parallax::testing
