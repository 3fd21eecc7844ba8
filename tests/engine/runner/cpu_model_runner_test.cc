#include "engine/runner/cpu_model_runner.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include "engine/runner/model_runner_factory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/runner/runner_driver.h"

namespace parallax {
namespace {

using testing::CheckpointSpec;
using testing::DrivenSequence;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::RawTensors;
using testing::ReferenceModel;
using testing::RunnerDriver;
using testing::TempFolder;
using testing::TinySpec;

constexpr int kVocab = 97;

std::vector<double> LogSoftmax(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double x : logits) sum += std::exp(x - top);
  std::vector<double> result;
  for (const double x : logits) result.push_back(x - top - std::log(sum));
  return result;
}

class CpuRunner : public ::testing::Test {
 protected:
  CpuRunner() : tensors_(WriteRandomCheckpoint(spec_, folder_.path())) {}

  ModelRunnerOptions Options() const {
    ModelRunnerOptions options;
    options.model = folder_.path();
    options.kv_cache_dtype = kernels::DType::kFloat32;
    options.num_threads = 2;
    options.max_model_len = 512;
    options.max_num_seqs = 8;
    options.max_num_batched_tokens = 256;
    options.num_kv_pages = 64;
    return options;
  }

  std::unique_ptr<ModelRunner> MakeRunner(const ModelRunnerOptions& options) {
    auto runner = CreateModelRunner(options);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return *std::move(runner);
  }
  std::unique_ptr<ModelRunner> MakeRunner() { return MakeRunner(Options()); }

  static DrivenSequence Prompt(int length, uint64_t seed = 1) {
    std::mt19937_64 random(seed);
    DrivenSequence sequence;
    for (int i = 0; i < length; ++i)
      sequence.prompt.push_back(static_cast<int32_t>(random() % kVocab));
    sequence.params.temperature = 0;
    sequence.params.max_tokens = 100;
    return sequence;
  }

  // What the sequence generates with nobody else around.
  std::vector<int32_t> Alone(DrivenSequence sequence, int tokens) {
    const auto runner = MakeRunner();
    RunnerDriver driver(*runner);
    driver.Attach(sequence, 0);
    driver.Generate(sequence, tokens);
    return sequence.generated;
  }

  const CheckpointSpec spec_ = TinySpec();
  const TempFolder folder_;
  const ReferenceModel::Tensors tensors_;
};

TEST_F(CpuRunner, GreedyTokensAreTheReferenceArgmax) {
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
    EXPECT_EQ(sequence.generated[i], best);
    EXPECT_NEAR(sequence.samples[i].logprob, LogSoftmax(row)[best], 2e-3);
    EXPECT_EQ(sequence.samples[i].top_count, 3);
  }
}

TEST_F(CpuRunner, TokensDoNotDependOnChunksOrTheBatch) {
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
    EXPECT_EQ(sequence.generated, expected);
  }
}

TEST_F(CpuRunner, PreemptionAndInputFromSlotChangeNothing) {
  DrivenSequence sequence = Prompt(60);
  sequence.params.temperature = 0.8f;
  sequence.params.repetition_penalty = 1.3f;
  sequence.params.presence_penalty = 0.5f;
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
  EXPECT_EQ(sequence.generated, expected);
}

TEST_F(CpuRunner, ChoicesForkFromOneRowAndCopyThePage) {
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
  EXPECT_EQ(first.generated, first_alone);
  EXPECT_EQ(second.generated, second_alone);
}

TEST_F(CpuRunner, PromptLogprobsAgreeWithTheReference) {
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
    EXPECT_NEAR(scored.logprob, expected[sequence.prompt[i + 1]], 5e-3) << i;
    EXPECT_EQ(scored.top_count, i < 40 ? 2 : 0);
    if (i < 40) {
      EXPECT_EQ(first.top_ids[scored.top_begin],
                std::max_element(expected.begin(), expected.end()) - expected.begin());
    }
  }
}

TEST_F(CpuRunner, MinTokensHoldsBackTheStops) {
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

TEST_F(CpuRunner, NeverSamplesIdsOutsideTheTokenizer) {
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

TEST_F(CpuRunner, LogitBiasAndBansReachTheSampler) {
  DrivenSequence sequence = Prompt(20);
  sequence.params.logit_bias = {{42, 100.0f}};
  EXPECT_EQ(Alone(sequence, 3), (std::vector<int32_t>{42, 42, 42}));
}

TEST_F(CpuRunner, NanEndsOneSequenceAndNoOther) {
  // Token 13's embedding is NaN: whoever has it in the prompt gets NaN logits.
  RawTensors raw = ToRawTensors(spec_, tensors_);
  std::string& embedding = raw["model.embed_tokens.weight"].bytes;
  std::fill_n(embedding.begin() + 13 * spec_.shape.hidden * 4, spec_.shape.hidden * 4, '\xff');
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
  EXPECT_FALSE(result.prompt_logprobs[6].nan_logits);
  EXPECT_TRUE(result.prompt_logprobs[7].nan_logits);
  // The pages that held NaN are used again by the healthy one.
  driver.Detach(sick);
  while (healthy.generated.size() < 6) {
    driver.Add(healthy, 1);
    driver.Step();
  }
  EXPECT_EQ(healthy.generated, expected);
}

TEST_F(CpuRunner, WhatKernelsThrowBecomesInternal) {
  const auto runner = MakeRunner();
  ForwardBatch batch;
  batch.step_id = 3;
  batch.token_ids = {kVocab};  // outside the embedding table
  batch.positions = {0};
  batch.slot_mapping = {0};
  batch.sequence_slots = {0};
  batch.query_start = {0, 1};
  batch.context_len = {1};
  batch.block_tables = {0};
  batch.block_table_stride = 1;
  const absl::Status status = runner->Launch(batch);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 3"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("97"));
}

TEST_F(CpuRunner, CollectFollowsLaunch) {
  const auto runner = MakeRunner();
  EXPECT_EQ(runner->Collect().status().code(), absl::StatusCode::kFailedPrecondition);
  const ForwardBatch empty;
  ASSERT_TRUE(runner->Launch(empty).ok());
  EXPECT_EQ(runner->Launch(empty).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(runner->Collect().ok());
}

TEST_F(CpuRunner, DescribesItself) {
  const auto runner = MakeRunner();
  const ModelDescription& model = runner->description();
  EXPECT_EQ(model.architecture, "ParallaxQwen3ForCausalLM");
  EXPECT_EQ(model.weight_dtype, "float32");
  EXPECT_EQ(model.kv_dtype, "float32");
  EXPECT_EQ(model.device, "cpu (2 threads)");
  EXPECT_TRUE(model.probe);
  EXPECT_TRUE(folder_.path().ends_with(model.name)) << model.name;
  const RunnerLimits& limits = runner->limits();
  EXPECT_EQ(limits.num_pages, 64);
  // Two layers of K and V, one head of 64 tokens x 64 floats.
  EXPECT_EQ(limits.page_bytes, 2 * 2 * 64 * 64 * 4);
  EXPECT_EQ(limits.sliding_window, 0);
  EXPECT_EQ(limits.probe_state_bytes, 0);  // no context of 512 tokens is ever split
}

TEST_F(CpuRunner, CountsProbeStatesOfLongContexts) {
  ModelRunnerOptions options = Options();
  options.max_model_len = 2048;
  const auto runner = MakeRunner(options);
  RunnerDriver driver(*runner);
  DrivenSequence sequence = Prompt(1100);
  driver.Attach(sequence, 0);
  driver.Generate(sequence, 1, 256);
  EXPECT_EQ(runner->probe_state_bytes_used(), 0);  // prefill keeps its state in registers
  driver.Generate(sequence, 2);
  // Two splits of two heads, each (m, d1, d2, o1[64], o2[64]).
  EXPECT_EQ(runner->probe_state_bytes_used(), 2 * 2 * (3 + 2 * 64) * 4);
  EXPECT_LE(runner->probe_state_bytes_used(), runner->limits().probe_state_bytes);
}

}  // namespace
}  // namespace parallax
