// What every backend with a model does, against the fp64 reference and against itself.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runner/model_runner_fixture.h"

namespace parallax::testing {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<double> LogSoftmax(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double x : logits) sum += std::exp(x - top);
  std::vector<double> result;
  for (const double x : logits) result.push_back(x - top - std::log(sum));
  return result;
}

TEST_F(ModelRunnerTest, GreedyTokensAreTheReferenceArgmax) {
  DrivenSequence sequence = Prompt(70);
  sequence.params.logprobs = 3;
  const auto runner = MakeRunner();
  RunnerDriver driver(*runner);
  driver.Attach(sequence, 2);
  driver.Generate(sequence, 5);

  const ReferenceModel reference(spec_.shape, tensors_);
  std::vector<int32_t> tokens = sequence.prompt;
  tokens.insert(tokens.end(), sequence.generated.begin(), sequence.generated.end());
  const ReferenceModel::Rows logits = reference.Logits(tokens);
  for (int i = 0; i < 5; ++i) {
    const std::vector<double>& row = logits[sequence.prompt.size() - 1 + i];
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    EXPECT_GE(row[sequence.generated[i]], row[best] - Backend().logprob_tolerance);
    EXPECT_NEAR(sequence.samples[i].logprob, LogSoftmax(row)[sequence.generated[i]],
                Backend().logprob_tolerance);
    EXPECT_EQ(sequence.samples[i].top_count, 3);
  }
}

TEST_F(ModelRunnerTest, TokensDoNotDependOnChunksOrTheBatch) {
  for (const float temperature : {0.0f, 1.0f}) {
    DrivenSequence sequence = Prompt(130);
    sequence.params.temperature = temperature;
    sequence.params.seed = 99;
    const std::vector<int32_t> expected = Alone(sequence, 12);

    const auto runner = MakeRunner();
    RunnerDriver driver(*runner);
    DrivenSequence decoding = Prompt(3, 2);
    DrivenSequence prefilling = Prompt(200, 3);
    driver.Attach(decoding, 0);
    driver.Attach(sequence, 5);
    driver.Attach(prefilling, 1);
    while (sequence.generated.size() < 12) {
      driver.Add(decoding, decoding.length() - decoding.computed);
      driver.Add(sequence, std::min(33, sequence.length() - sequence.computed));
      if (prefilling.computed < prefilling.length()) {
        driver.Add(prefilling, std::min(17, prefilling.length() - prefilling.computed));
      }
      driver.Step();
    }
    ExpectUndisturbed(sequence, expected);
  }
}

TEST_F(ModelRunnerTest, PreemptionAndInputFromSlotChangeNothing) {
  DrivenSequence sequence = Prompt(60);
  sequence.params.temperature = 0.8f;
  if (Backend().batch_invariant) {
    sequence.params.repetition_penalty = 1.3f;
    sequence.params.presence_penalty = 0.5f;
  }
  const std::vector<int32_t> expected = Alone(sequence, 15);

  const auto runner = MakeRunner();
  RunnerDriver driver(*runner);
  driver.Attach(sequence, 0);
  driver.Generate(sequence, 6);
  driver.Detach(sequence);
  driver.Step();
  sequence.computed = 0;
  sequence.pages.clear();
  driver.Attach(sequence, 4);
  driver.Add(sequence, sequence.length());
  driver.Step();
  while (sequence.generated.size() < 15) {
    driver.Add(sequence, 1, /*from_slot=*/true);
    driver.Step();
  }
  ExpectUndisturbed(sequence, expected);
}

TEST_F(ModelRunnerTest, ChoicesForkFromOneRowAndCopyThePage) {
  DrivenSequence first = Prompt(70);
  first.params.temperature = 1.0f;
  DrivenSequence second = first;
  second.choice_index = 1;
  const std::vector<int32_t> first_alone = Alone(first, 8);
  const std::vector<int32_t> second_alone = Alone(second, 8);
  ASSERT_NE(first_alone, second_alone);

  const auto runner = MakeRunner();
  RunnerDriver driver(*runner);
  driver.Attach(first, 0);
  driver.Attach(second, 1);
  driver.Add(first, 70);
  driver.Fork({&second});
  driver.Step();
  second.computed = first.computed;
  second.pages = {first.pages[0], driver.NewPage()};  // the full page is shared
  driver.batch().page_copies.push_back({first.pages[1], second.pages[1]});
  while (first.generated.size() < 8) {
    driver.Add(first, 1);
    driver.Add(second, 1);
    driver.Step();
  }
  ExpectUndisturbed(first, first_alone);
  ExpectUndisturbed(second, second_alone);
}

TEST_F(ModelRunnerTest, PromptLogprobsAgreeWithTheReference) {
  DrivenSequence sequence = Prompt(90);
  const auto runner = MakeRunner();
  RunnerDriver driver(*runner);
  driver.Attach(sequence, 0);
  driver.Add(sequence, 40);
  driver.ScorePrompt(sequence, 0, 40, 2);
  const StepResult first = driver.Step();
  driver.Add(sequence, 50);
  driver.ScorePrompt(sequence, 0, 49, 0);
  const StepResult second = driver.Step();
  ASSERT_EQ(first.prompt_logprobs.size(), 40u);
  ASSERT_EQ(second.prompt_logprobs.size(), 49u);

  const ReferenceModel::Rows logits = ReferenceModel(spec_.shape, tensors_).Logits(sequence.prompt);
  for (int i = 0; i < 89; ++i) {
    const PromptLogprob& scored =
        i < 40 ? first.prompt_logprobs[i] : second.prompt_logprobs[i - 40];
    const std::vector<double> expected = LogSoftmax(logits[i]);
    EXPECT_NEAR(scored.logprob, expected[sequence.prompt[i + 1]], Backend().logprob_tolerance) << i;
    EXPECT_EQ(scored.top_count, i < 40 ? 2 : 0);
    if (i < 40) {
      EXPECT_GE(expected[first.top_ids[scored.top_begin]],
                *std::max_element(expected.begin(), expected.end()) - Backend().logprob_tolerance);
    }
  }
}

// The embedding has rows for ids that the tokenizer does not know: a prompt may hold them, and none
// of them is ever listed among the most likely.
TEST_F(ModelRunnerTest, ScoresPromptTokensOutsideTheTokenizer) {
  ModelRunnerOptions options = Options();
  options.token_limit = 10;
  const auto runner = MakeRunner(options);
  DrivenSequence sequence = Prompt(80);
  ASSERT_GT(std::count_if(sequence.prompt.begin(), sequence.prompt.end(),
                          [](int32_t id) { return id >= 10; }),
            40);
  const ReferenceModel::Rows logits = ReferenceModel(spec_.shape, tensors_).Logits(sequence.prompt);
  for (const int32_t top_k : {0, 3}) {
    RunnerDriver driver(*runner);
    driver.Attach(sequence, 0);
    driver.Add(sequence, 80);
    driver.ScorePrompt(sequence, 0, 79, top_k);
    const StepResult result = driver.Step();
    ASSERT_EQ(result.prompt_logprobs.size(), 79u);
    for (int i = 0; i < 79; ++i) {
      const PromptLogprob& scored = result.prompt_logprobs[i];
      EXPECT_FALSE(scored.nan_logits);
      EXPECT_NEAR(scored.logprob, LogSoftmax(logits[i])[sequence.prompt[i + 1]],
                  Backend().logprob_tolerance)
          << "row " << i << ", target " << sequence.prompt[i + 1];
      ASSERT_EQ(scored.top_count, top_k);
      for (int32_t k = 0; k < top_k; ++k) EXPECT_LT(result.top_ids[scored.top_begin + k], 10);
    }
    driver.Detach(sequence);
    driver.Step();
    sequence.computed = 0;
    sequence.pages.clear();
    sequence.generated.clear();
  }
}

TEST_F(ModelRunnerTest, MinTokensHoldsBackTheStops) {
  DrivenSequence sequence = Prompt(20);
  const int32_t first_choice = Alone(sequence, 1)[0];
  for (const bool as_eos : {true, false}) {
    ModelRunnerOptions options = Options();
    DrivenSequence held = Prompt(20);
    held.params.min_tokens = 2;
    if (as_eos) {
      options.eos_token_ids = {first_choice};
    } else {
      held.params.stop_token_ids = {first_choice};
    }
    const auto runner = MakeRunner(options);
    RunnerDriver driver(*runner);
    driver.Attach(held, 0);
    driver.Generate(held, 2);
    EXPECT_THAT(held.generated, Each(Not(first_choice)));
  }
}

TEST_F(ModelRunnerTest, NeverSamplesIdsOutsideTheTokenizer) {
  ModelRunnerOptions options = Options();
  options.token_limit = 10;
  options.token_mask = {~(1u << 3)};  // a hole at 3
  const auto runner = MakeRunner(options);
  RunnerDriver driver(*runner);
  DrivenSequence sequence = Prompt(20);
  sequence.params.temperature = 5;
  driver.Attach(sequence, 0);
  driver.Generate(sequence, 30);
  for (const int32_t token : sequence.generated) {
    EXPECT_LT(token, 10);
    EXPECT_NE(token, 3);
  }
}

// The sampler would read behind it.
TEST_F(ModelRunnerTest, RefusesAMaskThatEndsBeforeTheTokenizer) {
  ModelRunnerOptions options = Options();
  options.token_limit = 33;
  options.token_mask = {~0u};
  const absl::Status status = CreateModelRunner(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("token_mask has 32 bits"));
}

TEST_F(ModelRunnerTest, LogitBiasAndBansReachTheSampler) {
  DrivenSequence sequence = Prompt(20);
  sequence.params.logit_bias = {{42, 100.0f}};
  EXPECT_EQ(Alone(sequence, 3), (std::vector<int32_t>{42, 42, 42}));
}

TEST_F(ModelRunnerTest, NanEndsOneSequenceAndNoOther) {
  // Token 13's embedding is NaN: whoever has it in the prompt gets NaN logits.
  RawTensors raw = ToRawTensors(spec_, tensors_);
  std::string& embedding = raw["model.embed_tokens.weight"].bytes;
  const size_t row_bytes = embedding.size() / kVocab;
  std::fill_n(embedding.begin() + 13 * row_bytes, row_bytes, '\xff');
  WriteCheckpoint(spec_, raw, folder_.path());

  DrivenSequence healthy = Prompt(30, 5);
  std::replace(healthy.prompt.begin(), healthy.prompt.end(), 13, 14);
  const std::vector<int32_t> expected = Alone(healthy, 6);
  DrivenSequence sick = Prompt(30, 6);
  std::replace(sick.prompt.begin(), sick.prompt.end(), 13, 14);
  sick.prompt[7] = 13;

  const auto runner = MakeRunner();
  RunnerDriver driver(*runner);
  driver.Attach(sick, 0);
  driver.Attach(healthy, 1);
  driver.Add(sick, 30);
  driver.ScorePrompt(sick, 0, 29, 1);
  driver.Add(healthy, 30);
  const StepResult result = driver.Step();
  EXPECT_TRUE(result.samples[0].nan_logits);
  EXPECT_FALSE(result.samples[1].nan_logits);
  // A GPU multiplies the values of a tile by weights of zero where a row does not see them: there
  // the NaN reaches the sequence's own rows before it.
  if (Backend().device == RunnerDevice::kCpu) {
    EXPECT_FALSE(result.prompt_logprobs[6].nan_logits);
  }
  EXPECT_TRUE(result.prompt_logprobs[7].nan_logits);
  // The pages that held NaN are used again by the healthy one.
  driver.Detach(sick);
  while (healthy.generated.size() < 6) {
    driver.Add(healthy, 1);
    driver.Step();
  }
  ExpectUndisturbed(healthy, expected);
}

// A prompt of one token: the step has one row, and a token to sample for each choice.
TEST_F(ModelRunnerTest, ChoicesOfAOneTokenPromptForkFromItsOnlyRow) {
  const auto runner = MakeRunner();
  RunnerDriver driver(*runner);
  std::vector<DrivenSequence> choices(4, Prompt(1));
  for (int i = 0; i < 4; ++i) {
    choices[i].params.temperature = 1.0f;
    choices[i].choice_index = i;
    driver.Attach(choices[i], i);
  }
  driver.Add(choices[0], 1);
  driver.Fork({&choices[1], &choices[2], &choices[3]});
  driver.Step();
  for (int i = 1; i < 4; ++i) {
    choices[i].computed = 1;
    choices[i].pages = {driver.NewPage()};
    driver.batch().page_copies.push_back({choices[0].pages[0], choices[i].pages[0]});
  }
  while (choices[0].generated.size() < 6) {
    for (DrivenSequence& choice : choices) driver.Add(choice, 1);
    driver.Step();
  }
  for (const DrivenSequence& choice : choices) {
    DrivenSequence alone = Prompt(1);
    alone.params.temperature = 1.0f;
    alone.choice_index = choice.choice_index;
    ExpectUndisturbed(choice, Alone(alone, 6));
  }
}

}  // namespace
}  // namespace parallax::testing
