// The steps before the first request: valid within any limits, and of every kind.
#include "engine/cuda/rehearsal.h"

#include "engine/cuda/step_layout.h"
#include "engine/runner/batch_validation.h"
#include "gtest/gtest.h"

namespace parallax {
namespace {

constexpr int kScoreGroup = 64;

RunnerLimits Limits(int seqs, int tokens, int context) {
  RunnerLimits limits;
  limits.vocab_size = 100;
  limits.max_num_seqs = seqs;
  limits.max_num_batched_tokens = tokens;
  limits.max_context_tokens = context;
  limits.num_pages = (context + kPageTokens - 1) / kPageTokens;
  return limits;
}

TEST(Rehearsal, IsOfEveryKindOfStep) {
  const SamplingParams params;
  const auto steps = RehearsalSteps(Limits(8, 512, 1000), kScoreGroup, &params);
  ASSERT_EQ(steps.size(), 2u);
  const StepShape prompt = ShapeOf(steps[0]);
  EXPECT_EQ(prompt.prefill_tokens(), 512);
  std::vector<int32_t> scored;
  for (const PromptLogprobTask& task : steps[0].prompt_logprobs) scored.push_back(task.count);
  EXPECT_EQ(scored, (std::vector<int32_t>{1, 2, 4, 8, 16, 32, kScoreGroup + 1}));
  EXPECT_EQ(prompt.page_copies, 1);
  EXPECT_EQ(prompt.samples, 1);
  const StepShape mixed = ShapeOf(steps[1]);
  EXPECT_EQ(mixed.decode_sequences, 1);
  EXPECT_EQ(mixed.prefill_sequences(), 1);
  EXPECT_EQ(mixed.samples, 2);
}

TEST(Rehearsal, KeepsToTheLimits) {
  const SamplingParams params;
  for (const int seqs : {1, 2, 100}) {
    for (const int tokens : {1, 2, 63, 64, 65, 2048}) {
      for (const int context : {1, 2, 64, 65, 4096}) {
        const RunnerLimits limits = Limits(seqs, tokens, context);
        for (const ForwardBatch& step : RehearsalSteps(limits, kScoreGroup, &params)) {
          EXPECT_TRUE(ValidateBatch(step, limits).ok()) << ValidateBatch(step, limits);
          EXPECT_GT(step.num_tokens(), 0);
          EXPECT_LE(ShapeOf(step).scored_rows, step.num_tokens());
          for (const int32_t page : step.block_tables) EXPECT_LT(page, limits.num_pages);
          for (const int32_t length : step.context_len) EXPECT_LE(length, context);
        }
      }
    }
  }
}

}  // namespace
}  // namespace parallax
