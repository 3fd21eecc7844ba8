#include "engine/runner/batch_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/scheduler/scheduler_harness.h"

namespace parallax::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

ForwardBatch Build(const ScheduledBatch& scheduled) {
  ForwardBatch batch;
  BuildForwardBatch(scheduled, &batch);
  return batch;
}

TEST(BatchBuilderTest, PacksAPrefillAndADecode) {
  SchedulerHarness harness(SchedulerHarness::Options());
  SequenceGroup* decoding = harness.Add(Tokens(64, 500), 5);
  harness.Step();
  SequenceGroup* prefilling = harness.Add(Tokens(3, 900), 5);
  const ScheduledBatch* scheduled = harness.Schedule();
  ASSERT_NE(scheduled, nullptr);
  const ForwardBatch batch = Build(*scheduled);

  const Sequence& first = First(decoding);
  const Sequence& second = First(prefilling);
  EXPECT_EQ(batch.step_id, 2u);
  EXPECT_THAT(batch.token_ids, ElementsAre(first.tokens[64], 900, 901, 902));
  EXPECT_THAT(batch.positions, ElementsAre(64, 0, 1, 2));
  const int64_t page = first.block_table.page(1) * kPageTokens;
  const int64_t other = second.block_table.page(0) * kPageTokens;
  EXPECT_THAT(batch.slot_mapping, ElementsAre(page, other, other + 1, other + 2));
  EXPECT_THAT(batch.sequence_slots, ElementsAre(first.slot, second.slot));
  EXPECT_THAT(batch.query_start, ElementsAre(0, 1, 4));
  EXPECT_THAT(batch.context_len, ElementsAre(65, 3));
  EXPECT_EQ(batch.block_table_stride, 2);
  EXPECT_THAT(batch.block_tables, ElementsAre(first.block_table.page(0), first.block_table.page(1),
                                              second.block_table.page(0), kNoPage));
  EXPECT_THAT(batch.logits_rows, ElementsAre(0, 3));
  ASSERT_THAT(batch.samples, SizeIs(2));
  EXPECT_EQ(batch.samples[0].output_position, 1);
  EXPECT_EQ(batch.samples[1].logits_index, 1);
  ASSERT_THAT(batch.attached_slots, SizeIs(1));
  EXPECT_THAT(batch.attached_slots[0].prompt, ElementsAre(900, 901, 902));
  EXPECT_THAT(batch.attached_slots[0].generated, IsEmpty());
  harness.Complete();
}

TEST(BatchBuilderTest, AChunkInsideAPromptSamplesNothingAndSeesNoLaterPages) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_prefill_chunk = 100;
  SchedulerHarness harness(options);
  harness.Add(Tokens(250), 1);
  const ForwardBatch batch = Build(*harness.Schedule());
  EXPECT_EQ(batch.num_tokens(), 100);
  EXPECT_EQ(batch.block_table_stride, 2);
  EXPECT_THAT(batch.logits_rows, IsEmpty());
  EXPECT_THAT(batch.samples, IsEmpty());
}

TEST(BatchBuilderTest, ForkedChoicesSampleFromOneRow) {
  SchedulerHarness harness(SchedulerHarness::Options());
  harness.Add(Tokens(4, 100), 2);
  SequenceGroup* group = harness.Add(Tokens(5, 200), 2, /*n=*/3);
  const ForwardBatch batch = Build(*harness.Schedule());
  EXPECT_THAT(batch.logits_rows, ElementsAre(3, 8));
  ASSERT_THAT(batch.samples, SizeIs(4));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(batch.samples[1 + i].logits_index, 1);
    EXPECT_EQ(batch.samples[1 + i].slot, group->sequences[i]->slot);
    EXPECT_EQ(batch.attached_slots[1 + i].choice_index, i);
  }
  harness.Complete();
  const ForwardBatch decode = Build(*harness.Schedule());
  EXPECT_THAT(decode.page_copies, SizeIs(2));
  EXPECT_EQ(decode.num_sequences(), 4);
}

TEST(BatchBuilderTest, ATokenThatIsBeingSampledComesFromTheSlot) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_steps_in_flight = 2;
  SchedulerHarness harness(options);
  harness.Add(Tokens(4), 5);
  harness.Schedule();
  const ForwardBatch batch = Build(*harness.Schedule());
  EXPECT_THAT(batch.token_ids, ElementsAre(kTokenFromSlot));
  EXPECT_THAT(batch.positions, ElementsAre(4));
}

TEST(BatchBuilderTest, ScoresThePromptAgainstItsNextTokens) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.max_prefill_chunk = 3;
  SchedulerHarness harness(options);
  harness.RunToEnd(harness.Add(Tokens(1), 1));
  Request request = SchedulerHarness::MakeRequest(Tokens(5, 700), 1);
  request.sampling.prompt_logprobs = 2;
  harness.Add(request);

  const ForwardBatch first = Build(*harness.Schedule());
  ASSERT_THAT(first.prompt_logprobs, SizeIs(1));
  EXPECT_EQ(first.prompt_logprobs[0].first_row, 0);
  EXPECT_EQ(first.prompt_logprobs[0].top_k, 2);
  EXPECT_THAT(first.prompt_targets, ElementsAre(701, 702, 703));
  harness.Complete();
  const ForwardBatch second = Build(*harness.Schedule());
  ASSERT_THAT(second.prompt_logprobs, SizeIs(1));
  EXPECT_EQ(second.prompt_logprobs[0].count, 1);
  EXPECT_THAT(second.prompt_targets, ElementsAre(704));
}

TEST(BatchBuilderTest, ARecomputedSequenceBringsWhatItHadGenerated) {
  SchedulerOptions options = SchedulerHarness::Options();
  options.num_pages = 4;
  SchedulerHarness harness(options);
  harness.Add(Tokens(126), 5);
  SequenceGroup* second = harness.Add(Tokens(120, 7000), 30);
  while (harness.preemptions(First(second)) == 0) harness.Step();
  ForwardBatch batch;
  while (batch.attached_slots.empty()) {
    batch = Build(*harness.Schedule());
    harness.Complete();
  }
  EXPECT_EQ(batch.attached_slots[0].slot, First(second).slot);
  EXPECT_THAT(batch.attached_slots[0].generated, SizeIs(3));
  EXPECT_EQ(batch.samples.back().output_position, 3);
}

}  // namespace
}  // namespace parallax::testing
