// What travels to the GPU with a step: every array where the layout says, padded to do nothing.
#include "engine/cuda/step_layout.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "engine/cuda/slot_table.h"
#include "gtest/gtest.h"
#include "kernels/check.h"

namespace parallax {
namespace {

using kernels::LogitBias;
using kernels::cuda::DeviceSamplingRow;

// A packed step, read back through its layout.
class Packed {
 public:
  Packed(const ForwardBatch& batch, const StepShape& shape, bool all_logits,
         const std::vector<SlotState>& slots, int score_group = 64)
      : layout_(shape), block_(layout_.size, std::byte{0xee}) {
    PackStep(batch, shape, all_logits, score_group, slots, block_.data());
  }

  template <typename T>
  std::vector<T> Array(size_t offset, int count) const {
    const auto* const first = reinterpret_cast<const T*>(block_.data() + offset);
    return {first, first + count};
  }
  const StepLayout& layout() const { return layout_; }

 private:
  const StepLayout layout_;
  std::vector<std::byte> block_;
};

std::vector<SlotState> MakeSlots(int count) {
  std::vector<SlotState> slots(count);
  for (int slot = 0; slot < count; ++slot) {
    slots[slot].attached = true;
    slots[slot].row.slot = slot;
    slots[slot].row.seed = 1000 + slot;
  }
  return slots;
}

// Appends a sequence of `rows` rows whose last one is at position context - 1.
void AddSequence(ForwardBatch& batch, int slot, int rows, int context) {
  if (batch.query_start.empty()) batch.query_start.push_back(0);
  for (int i = 0; i < rows; ++i) {
    const int position = context - rows + i;
    batch.token_ids.push_back(rows == 1 ? kTokenFromSlot : 100 + position);
    batch.positions.push_back(position);
    batch.slot_mapping.push_back(1000 * slot + position);
  }
  batch.sequence_slots.push_back(slot);
  batch.query_start.push_back(batch.num_tokens());
  batch.context_len.push_back(context);
  batch.logits_rows.push_back(batch.num_tokens() - 1);
  batch.samples.push_back({.logits_index = static_cast<int32_t>(batch.logits_rows.size()) - 1,
                           .slot = slot,
                           .output_position = context});
}

TEST(StepLayout, ArraysAreAlignedAndDoNotOverlap) {
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    const auto any = [&] { return static_cast<int>(random() % 40); };
    StepShape shape{.tokens = any(), .sequences = any()};
    shape.decode_sequences = std::min(shape.sequences, any());
    shape.logits_rows = any();
    shape.samples = any();
    shape.scored_rows = any();
    shape.page_copies = any();
    const StepLayout layout(shape);
    const std::vector<std::pair<size_t, size_t>> arrays = {
        {layout.slot_mapping, shape.tokens * sizeof(int64_t)},
        {layout.token_ids, shape.tokens * sizeof(int32_t)},
        {layout.positions, shape.tokens * sizeof(int32_t)},
        {layout.context_len, shape.sequences * sizeof(int32_t)},
        {layout.prefill_query_start, (shape.prefill_sequences() + 1) * sizeof(int32_t)},
        {layout.logits_rows, shape.logits_rows * sizeof(int32_t)},
        {layout.sampling_rows, shape.samples * sizeof(DeviceSamplingRow)},
        {layout.score_rows, shape.scored_rows * sizeof(DeviceSamplingRow)},
        {layout.score_bias, shape.scored_rows * sizeof(LogitBias)},
        {layout.page_copies, shape.page_copies * sizeof(kernels::PageCopy)}};
    size_t end = 0;
    for (const auto& [begin, bytes] : arrays) {
      EXPECT_EQ(begin % 16, 0u);
      EXPECT_GE(begin, end);
      end = begin + bytes;
    }
    EXPECT_GE(layout.size, end);
  }
}

TEST(StepLayout, PageCopiesDoNotMoveWhatAGraphReads) {
  StepShape with = DecodeShape(16);
  with.page_copies = 9;
  const StepLayout plain(DecodeShape(16));
  const StepLayout copying(with);
  EXPECT_EQ(plain.sampling_rows, copying.sampling_rows);
  EXPECT_EQ(plain.context_len, copying.context_len);
  EXPECT_GE(copying.page_copies, plain.size);
}

TEST(PackStep, PadsADecodeStepWithSequencesThatDoNothing) {
  ForwardBatch batch;
  AddSequence(batch, /*slot=*/3, /*rows=*/1, /*context=*/70);
  AddSequence(batch, /*slot=*/1, /*rows=*/1, /*context=*/5);
  AddSequence(batch, /*slot=*/0, /*rows=*/1, /*context=*/9);
  std::vector<SlotState> slots = MakeSlots(4);
  slots[1].known_token = 42;
  EXPECT_TRUE(ShapeOf(batch).decode_only());
  const Packed packed(batch, DecodeShape(4), /*all_logits=*/true, slots);
  const StepLayout& at = packed.layout();
  EXPECT_EQ(packed.Array<int32_t>(at.token_ids, 4), (std::vector<int32_t>{-4, 42, -1, 0}));
  EXPECT_EQ(packed.Array<int32_t>(at.positions, 4), (std::vector<int32_t>{69, 4, 8, 0}));
  EXPECT_EQ(packed.Array<int64_t>(at.slot_mapping, 4), (std::vector<int64_t>{3069, 1004, 8, -1}));
  EXPECT_EQ(packed.Array<int32_t>(at.context_len, 4), (std::vector<int32_t>{70, 5, 9, 0}));
  const auto rows = packed.Array<DeviceSamplingRow>(at.sampling_rows, 4);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(rows[i].logits_index, i);
    EXPECT_EQ(rows[i].slot, batch.sequence_slots[i]);
    EXPECT_EQ(rows[i].seed, 1000u + batch.sequence_slots[i]);
    EXPECT_EQ(rows[i].position, static_cast<uint32_t>(batch.context_len[i]));
  }
  EXPECT_EQ(rows[3].logits_index, -1);
  EXPECT_EQ(rows[3].slot, -1);
}

TEST(PackStep, PrefillsBehindTheDecodeSequences) {
  ForwardBatch batch;
  AddSequence(batch, 0, 1, 30);
  AddSequence(batch, 1, 1, 31);
  AddSequence(batch, 2, 6, 6);
  AddSequence(batch, 3, 1, 1);  // a prompt's last token, after a longer one
  AddSequence(batch, 4, 3, 80);
  const StepShape shape = ShapeOf(batch);
  EXPECT_EQ(shape.decode_sequences, 2);
  EXPECT_EQ(shape.prefill_sequences(), 3);
  EXPECT_EQ(shape.prefill_tokens(), 10);
  EXPECT_FALSE(shape.decode_only());
  const Packed packed(batch, shape, /*all_logits=*/false, MakeSlots(5));
  const StepLayout& at = packed.layout();
  EXPECT_EQ(packed.Array<int32_t>(at.prefill_query_start, 4), (std::vector<int32_t>{0, 6, 7, 10}));
  EXPECT_EQ(packed.Array<int32_t>(at.logits_rows, 5), (std::vector<int32_t>{0, 1, 7, 8, 11}));
  const auto rows = packed.Array<DeviceSamplingRow>(at.sampling_rows, 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(rows[i].logits_index, i);
}

// In a graph, row i of the logits is token row i, whether or not it is sampled.
TEST(PackStep, SamplesTheRowsThatAskForIt) {
  ForwardBatch batch;
  AddSequence(batch, 0, 1, 30);
  AddSequence(batch, 1, 1, 31);
  AddSequence(batch, 2, 1, 32);
  batch.logits_rows = {2};
  batch.samples = {{.logits_index = 0, .slot = 2, .output_position = 0},
                   {.logits_index = 0, .slot = 3, .output_position = 0}};  // a forked choice
  const std::vector<SlotState> slots = MakeSlots(4);
  const Packed in_graph(batch, DecodeShape(4), /*all_logits=*/true, slots);
  const auto rows = in_graph.Array<DeviceSamplingRow>(in_graph.layout().sampling_rows, 4);
  EXPECT_EQ(rows[0].logits_index, 2);
  EXPECT_EQ(rows[1].logits_index, 2);
  EXPECT_EQ(rows[1].slot, 3);
  EXPECT_EQ(rows[2].logits_index, -1);
  const Packed eager(batch, ShapeOf(batch), /*all_logits=*/false, slots);
  const auto eager_rows = eager.Array<DeviceSamplingRow>(eager.layout().sampling_rows, 2);
  EXPECT_EQ(eager_rows[0].logits_index, 0);
  EXPECT_EQ(eager_rows[1].logits_index, 0);
}

// n choices of a prompt of one token, or of one that the prefix cache holds but for a token.
TEST(PackStep, MoreChoicesThanRowsNeedTheLargerBucket) {
  ForwardBatch batch;
  AddSequence(batch, 0, 1, 1);
  for (int slot = 1; slot < 4; ++slot) {
    batch.samples.push_back({.logits_index = 0, .slot = slot, .output_position = 0});
  }
  const StepShape shape = ShapeOf(batch);
  ASSERT_TRUE(shape.decode_only());
  EXPECT_EQ(shape.decode_rows(), 4);
  const std::vector<SlotState> slots = MakeSlots(4);
  const Packed packed(batch, DecodeShape(shape.decode_rows()), /*all_logits=*/true, slots);
  const StepLayout& at = packed.layout();
  const auto rows = packed.Array<DeviceSamplingRow>(at.sampling_rows, 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[i].slot, i);
    EXPECT_EQ(rows[i].logits_index, 0);
  }
  EXPECT_EQ(packed.Array<int32_t>(at.context_len, 4), (std::vector<int32_t>{1, 0, 0, 0}));
  EXPECT_EQ(packed.Array<int64_t>(at.slot_mapping, 4), (std::vector<int64_t>{0, -1, -1, -1}));
}

TEST(PackStep, RefusesABatchThatTheShapeDoesNotHold) {
  const std::vector<SlotState> slots = MakeSlots(4);
  ForwardBatch choices;
  AddSequence(choices, 0, 1, 1);
  choices.samples.resize(4, choices.samples[0]);
  EXPECT_THROW(Packed(choices, DecodeShape(1), true, slots), kernels::KernelError);
  ForwardBatch sequences;
  for (int slot = 0; slot < 3; ++slot) AddSequence(sequences, slot, 1, 5);
  EXPECT_THROW(Packed(sequences, DecodeShape(2), true, slots), kernels::KernelError);
}

TEST(PackStep, BansIdsUntilMinTokens) {
  SamplingParams params;
  params.min_tokens = 3;
  params.stop_token_ids = {8, 9};
  const SlotAttach attach{
      .slot = 1, .choice_index = 0, .params = &params, .prompt = {}, .generated = {}};
  std::vector<SlotState> slots(2);
  slots[1] = MakeSlotState(attach, {.logit_bias = 10, .banned_ids = 20}, {2}, false);
  EXPECT_EQ(BannedIds(params, {2}), (std::vector<int32_t>{2, 8, 9}));
  ForwardBatch batch;
  AddSequence(batch, 1, 1, 2);
  AddSequence(batch, 1, 1, 3);
  const Packed packed(batch, ShapeOf(batch), false, slots);
  const auto rows = packed.Array<DeviceSamplingRow>(packed.layout().sampling_rows, 2);
  EXPECT_EQ(rows[0].banned_begin, 20);
  EXPECT_EQ(rows[0].banned_count, 3);
  EXPECT_EQ(rows[1].banned_count, 0);
  EXPECT_EQ(rows[0].logit_bias_begin, 10);
}

TEST(PackStep, ScoresAPromptInGroups) {
  ForwardBatch batch;
  AddSequence(batch, 0, 5, 5);
  batch.prompt_logprobs = {{.slot = 0, .first_row = 0, .count = 5, .target_begin = 1, .top_k = 2}};
  batch.prompt_targets = {-7, 11, 12, 13, 14, 15};
  const StepShape shape = ShapeOf(batch);
  EXPECT_EQ(shape.scored_rows, 5);
  const Packed packed(batch, shape, false, MakeSlots(1), /*score_group=*/2);
  const auto rows = packed.Array<DeviceSamplingRow>(packed.layout().score_rows, 5);
  const auto bias = packed.Array<LogitBias>(packed.layout().score_bias, 5);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(rows[i].logits_index, i % 2);
    EXPECT_EQ(rows[i].temperature, 0.0f);
    EXPECT_EQ(rows[i].num_top_logprobs, 2);
    EXPECT_EQ(rows[i].slot, -1) << "scoring must not write a slot's token";
    EXPECT_EQ(bias[rows[i].logit_bias_begin].token, 11 + i);
  }
}

TEST(ScoreTargets, FollowTheRowsOfAllTasks) {
  ForwardBatch batch;
  batch.prompt_targets = {9, 1, 2, 3, 4, 5};
  batch.prompt_logprobs = {{.slot = 0, .first_row = 0, .count = 2, .target_begin = 4, .top_k = 0},
                           {.slot = 1, .first_row = 7, .count = 3, .target_begin = 1, .top_k = 0}};
  std::vector<int32_t> targets = {77};  // of the step before
  ScoreTargets(batch, targets);
  EXPECT_EQ(targets, (std::vector<int32_t>{4, 5, 1, 2, 3}));
}

TEST(LogprobOfTarget, IsNeverThatOfAnotherToken) {
  kernels::SampleResult scored;
  scored.token = 5;
  scored.logprob = -1.25f;
  EXPECT_EQ(LogprobOfTarget(scored, 5), -1.25f);
  EXPECT_EQ(LogprobOfTarget(scored, 6), -HUGE_VALF);
}

TEST(DecodeBuckets, AscendToTheLimitWithLittlePadding) {
  for (const int limit : {1, 2, 7, 8, 64, 100, 256, 1000, 1024}) {
    const std::vector<int> buckets = DecodeBuckets(limit);
    EXPECT_EQ(buckets.front(), 1);
    EXPECT_EQ(buckets.back(), limit);
    EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
    EXPECT_LE(buckets.size(), 40u);
    for (size_t i = 1; i < buckets.size(); ++i) {
      const int padding = buckets[i] - buckets[i - 1] - 1;
      EXPECT_LE(padding, std::max(7, buckets[i] / 8)) << buckets[i];
    }
  }
}

}  // namespace
}  // namespace parallax
