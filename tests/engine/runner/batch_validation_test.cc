#include "engine/runner/batch_validation.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parallax {
namespace {

using ::testing::HasSubstr;

const SamplingParams kParams;

// A prefill of two tokens and a decode, with one of everything.
ForwardBatch GoodBatch() {
  ForwardBatch batch;
  batch.step_id = 42;
  batch.attached_slots.push_back(
      {.slot = 1, .choice_index = 0, .params = &kParams, .prompt = {}, .generated = {}});
  batch.page_copies.push_back({0, 1});
  batch.token_ids = {5, 6, 7};
  batch.positions = {0, 1, 9};
  batch.slot_mapping = {0, 1, 73};
  batch.sequence_slots = {0, 1};
  batch.query_start = {0, 2, 3};
  batch.context_len = {2, 10};
  batch.block_tables = {0, 1};
  batch.block_table_stride = 1;
  batch.logits_rows = {1, 2};
  batch.samples = {{0, 0, 0}, {1, 1, 4}};
  batch.prompt_logprobs = {{0, 0, 1, 0, 2}};
  batch.prompt_targets = {6};
  return batch;
}

RunnerLimits Limits() {
  RunnerLimits limits;
  limits.max_num_seqs = 2;
  limits.max_num_batched_tokens = 3;
  limits.num_pages = 2;
  return limits;
}

TEST(BatchValidation, AcceptsGoodAndEmptyBatches) {
  EXPECT_TRUE(ValidateBatch(GoodBatch(), Limits()).ok()) << ValidateBatch(GoodBatch(), Limits());
  EXPECT_TRUE(ValidateBatch({}, Limits()).ok());
}

TEST(BatchValidation, NamesWhatIsWrong) {
  const std::pair<std::function<void(ForwardBatch&)>, const char*> cases[] = {
      {[](ForwardBatch& b) { b.token_ids.push_back(1); }, "token_ids.size() = 4"},
      {[](ForwardBatch& b) { b.positions.pop_back(); }, "positions.size() = 2"},
      {[](ForwardBatch& b) { b.slot_mapping.clear(); }, "slot_mapping.size() = 0"},
      {[](ForwardBatch& b) { b.sequence_slots.push_back(1); }, "sequence_slots.size() = 3"},
      {[](ForwardBatch& b) { b.query_start.pop_back(); }, "query_start.size() = 2"},
      {[](ForwardBatch& b) { b.context_len.push_back(1); }, "context_len.size() = 3"},
      {[](ForwardBatch& b) { b.block_tables.push_back(1); }, "block_tables.size() = 3"},
      {[](ForwardBatch& b) { b.query_start[1] = 4; }, "query_start = 4"},
      {[](ForwardBatch& b) { b.query_start[1] = -1; }, "query_start = -1"},
      {[](ForwardBatch& b) { b.query_start[0] = 1; }, "query_start[0] = 1"},
      {[](ForwardBatch& b) { b.query_start[2] = 2; }, "query_start[S] = 2"},
      {[](ForwardBatch& b) { b.sequence_slots[1] = 2; }, "sequence_slots = 2"},
      {[](ForwardBatch& b) { b.detached_slots = {-1}; }, "detached_slots = -1"},
      {[](ForwardBatch& b) { b.attached_slots[0].slot = 9; }, "attached_slots.slot = 9"},
      {[](ForwardBatch& b) { b.attached_slots[0].params = nullptr; }, "attached_slots.params"},
      {[](ForwardBatch& b) { b.page_copies[0].dst = 2; }, "page_copies.dst = 2"},
      {[](ForwardBatch& b) { b.page_copies[0].src = -1; }, "page_copies.src = -1"},
      {[](ForwardBatch& b) { b.logits_rows[0] = 3; }, "logits_rows = 3"},
      {[](ForwardBatch& b) { b.samples[0].logits_index = 2; }, "samples.logits_index = 2"},
      {[](ForwardBatch& b) { b.samples[0].slot = 2; }, "samples.slot = 2"},
      {[](ForwardBatch& b) {
         b.samples.push_back({0, 0, 0});
       },
       "samples.size() = 3"},
      {[](ForwardBatch& b) { b.prompt_logprobs[0].count = 4; }, "prompt_logprobs rows end = 4"},
      {[](ForwardBatch& b) { b.prompt_logprobs[0].count = 2; }, "prompt_logprobs targets end = 2"},
      {[](ForwardBatch& b) { b.prompt_logprobs[0].first_row = -1; },
       "prompt_logprobs.first_row = -1"},
      {[](ForwardBatch& b) { b.prompt_logprobs[0].target_begin = -1; }, "target_begin = -1"},
      {[](ForwardBatch& b) { b.prompt_logprobs[0].top_k = 21; }, "prompt_logprobs.top_k = 21"},
  };
  for (const auto& [damage, message] : cases) {
    ForwardBatch batch = GoodBatch();
    damage(batch);
    const absl::Status status = ValidateBatch(batch, Limits());
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_THAT(std::string(status.message()), HasSubstr("step 42"));
  }
}

}  // namespace
}  // namespace parallax
