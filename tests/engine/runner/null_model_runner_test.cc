#include "engine/runner/null_model_runner.h"

#include <chrono>
#include <cmath>
#include <memory>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runner/random_steps.h"
#include "tests/engine/runner/runner_driver.h"

namespace parallax {
namespace {

using testing::DrivenSequence;
using ::testing::HasSubstr;
using testing::RunnerDriver;

std::unique_ptr<NullModelRunner> MakeRunner(const NullModelRunnerOptions& options = {}) {
  auto runner = NullModelRunner::Create(options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

TEST(NullModelRunner, TokensDependOnTheRequestAlone) {
  const auto runner = MakeRunner({.vocab_size = 1000, .first_token = 10});
  RunnerDriver driver(*runner);
  DrivenSequence alone{.prompt = {1, 2, 3}};
  alone.params.seed = 5;
  driver.Attach(alone, 0);
  driver.Generate(alone, 20);

  DrivenSequence again = alone;
  again.generated.resize(8);  // as after a preemption: the eight tokens are prefilled again
  again.computed = 0;
  DrivenSequence stranger{.prompt = {9}};
  driver.Attach(stranger, 3);
  driver.Attach(again, 1);
  while (again.generated.size() < 20) {
    driver.Add(stranger, 1);
    driver.Add(again, again.length() - again.computed);
    driver.Step();
  }
  EXPECT_EQ(again.generated, alone.generated);
  EXPECT_NE(again.generated, stranger.generated);
  for (const int32_t token : alone.generated) {
    EXPECT_GE(token, 10);
    EXPECT_LT(token, 1000);
  }
  EXPECT_GT(std::set<int32_t>(alone.generated.begin(), alone.generated.end()).size(), 15u);
}

TEST(NullModelRunner, ChoicesDiffer) {
  const auto runner = MakeRunner();
  EXPECT_NE(runner->TokenAt(1, 0, 0), runner->TokenAt(1, 1, 0));
  EXPECT_NE(runner->TokenAt(1, 0, 0), runner->TokenAt(1, 0, 1));
  EXPECT_NE(runner->TokenAt(1, 0, 0), runner->TokenAt(2, 0, 0));
}

TEST(NullModelRunner, LogprobsAreUniform) {
  const auto runner = MakeRunner({.vocab_size = 4});
  RunnerDriver driver(*runner);
  DrivenSequence sequence{.prompt = {1, 2, 3}};
  sequence.params.logprobs = 5;  // more than there are tokens
  driver.Attach(sequence, 0);
  driver.Add(sequence, 3);
  driver.ScorePrompt(sequence, 0, 2, 1);
  const StepResult result = driver.Step();
  const float uniform = -std::log(4.0f);
  EXPECT_FLOAT_EQ(result.samples[0].logprob, uniform);
  EXPECT_EQ(result.samples[0].top_count, 4);
  ASSERT_EQ(result.prompt_logprobs.size(), 2u);
  EXPECT_FLOAT_EQ(result.prompt_logprobs[1].logprob, uniform);
  EXPECT_EQ(result.top_ids.size(), 2u + 4u);
}

TEST(NullModelRunner, KeepsSeveralStepsInFlight) {
  const auto runner = MakeRunner({.max_steps_in_flight = 2});
  EXPECT_FALSE(runner->Collect().ok());
  ForwardBatch batches[4];
  for (uint64_t i = 0; i < 4; ++i) batches[i].step_id = 100 + i;
  ASSERT_TRUE(runner->Launch(batches[0]).ok());
  ASSERT_TRUE(runner->Launch(batches[1]).ok());
  EXPECT_EQ(runner->Launch(batches[2]).code(), absl::StatusCode::kFailedPrecondition);
  const StepResult* first = *runner->Collect();
  ASSERT_TRUE(runner->Launch(batches[2]).ok());
  const StepResult* second = *runner->Collect();
  ASSERT_TRUE(runner->Launch(batches[3]).ok());
  // Valid until the next-but-one Collect.
  EXPECT_EQ(first->step_id, 100u);
  EXPECT_EQ(second->step_id, 101u);
}

// As on a device: a step takes its time, and the one launched behind it begins when it has ended.
TEST(NullModelRunner, StepsTakeTheTimeAskedForOneAfterTheOther) {
  constexpr std::chrono::milliseconds kStep{30};
  const auto runner = MakeRunner({.max_steps_in_flight = 2, .step_time = kStep});
  ForwardBatch batches[2];
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(runner->Launch(batches[0]).ok());
  ASSERT_TRUE(runner->Launch(batches[1]).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kStep) << "a launch does not wait";
  ASSERT_TRUE(runner->Collect().ok());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, kStep);
  ASSERT_TRUE(runner->Collect().ok());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 2 * kStep);
}

TEST(NullModelRunner, RefusesWhatIsNotAttached) {
  const auto runner = MakeRunner();
  RunnerDriver driver(*runner);
  DrivenSequence sequence{.prompt = {1}};
  sequence.slot = 7;
  driver.Add(sequence, 1);
  const absl::Status status = [&] {
    driver.batch().block_tables = {0};
    driver.batch().block_table_stride = 1;
    return runner->Launch(driver.batch());
  }();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("slot 7"));
}

// The driver of the GPU's tests, against a backend that computes each token from its place alone.
TEST(NullModelRunner, TwoStepsInFlightSampleWhatOneDoes) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    std::vector<std::vector<SampledToken>> samples[2];
    for (const int in_flight : {1, 2}) {
      const auto runner = NullModelRunner::Create({.max_context_tokens = 512,
                                                   .max_num_seqs = 8,
                                                   .max_num_batched_tokens = 512,
                                                   .num_pages = 512,
                                                   .max_steps_in_flight = 2});
      testing::RandomSteps steps(seed, /*max_slots=*/8, /*vocab=*/32000);
      steps.Run(**runner, /*steps=*/200, in_flight);
      samples[in_flight - 1] = steps.samples();
      EXPECT_GT(steps.counts().decode_steps, 10);
      EXPECT_GT(steps.counts().mixed_steps, 10);
      EXPECT_GT(steps.counts().preemptions, 5);
      EXPECT_GT(steps.counts().page_copies, 2);
      EXPECT_GT(steps.counts().slots_taken_again, 5);
    }
    ASSERT_EQ(samples[0].size(), samples[1].size());
    for (size_t i = 0; i < samples[0].size(); ++i) {
      ASSERT_EQ(samples[0][i].size(), samples[1][i].size());
      for (size_t t = 0; t < samples[0][i].size(); ++t) {
        EXPECT_EQ(samples[0][i][t].token, samples[1][i][t].token);
      }
    }
  }
}

TEST(NullModelRunner, RefusesOptionsByName) {
  const auto runner = NullModelRunner::Create({.vocab_size = 5, .first_token = 5});
  EXPECT_THAT(std::string(runner.status().message()), HasSubstr("first_token = 5"));
  const auto backwards = NullModelRunner::Create({.step_time = std::chrono::seconds(-1)});
  EXPECT_THAT(std::string(backwards.status().message()), HasSubstr("step_time"));
}

}  // namespace
}  // namespace parallax
