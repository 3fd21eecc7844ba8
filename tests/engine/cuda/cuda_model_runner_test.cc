// The GPU backend against the CPU's and against what the default model's training code computed.
//
// Tokens are compared where both sides compute the same mathematics in different precision, so
// sequences are greedy and the model's own: its top two are rarely close.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/runner/model_runner_factory.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/runner/random_steps.h"
#include "tests/engine/runner/runner_driver.h"

namespace parallax {
namespace {

using nlohmann::json;
using testing::DrivenSequence;
using testing::RandomSteps;
using testing::RunnerDriver;

constexpr char kFolder[] = "models/parallax-stories-14m";

std::unique_ptr<ModelRunner> Load(RunnerDevice device) {
  ModelRunnerOptions options;
  options.model = kFolder;
  options.device = device;
  options.max_num_seqs = 32;
  options.num_kv_pages = 512;
  auto runner = CreateModelRunner(options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

// One GPU runner for all tests: it takes a second to make.
ModelRunner& Gpu() {
  static ModelRunner* const runner = Load(RunnerDevice::kCuda).release();
  return *runner;
}

json Continuations() {
  std::ifstream file(std::string(kFolder) + "/testdata/golden.json");
  return json::parse(std::string(std::istreambuf_iterator<char>(file), {}))["continuations"];
}

std::vector<DrivenSequence> GreedySequences(const json& continuations) {
  std::vector<DrivenSequence> sequences(continuations.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].prompt = continuations[i]["prompt_ids"].get<std::vector<int32_t>>();
    sequences[i].params.temperature = 0;
  }
  return sequences;
}

void AttachAll(std::vector<DrivenSequence>& sequences, RunnerDriver& driver) {
  for (size_t i = 0; i < sequences.size(); ++i) {
    driver.Attach(sequences[i], static_cast<int32_t>(i));
  }
}

void DetachAll(std::vector<DrivenSequence>& sequences, RunnerDriver& driver) {
  for (DrivenSequence& sequence : sequences) driver.Detach(sequence);
  driver.Step();
}

TEST(CudaModelRunner, ContinuesAsTheTrainingCodeDid) {
  const json continuations = Continuations();
  RunnerDriver driver(Gpu());
  std::vector<DrivenSequence> sequences = GreedySequences(continuations);
  AttachAll(sequences, driver);
  for (bool unfinished = true; unfinished;) {
    unfinished = false;
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].generated.size() == continuations[i]["output_ids"].size()) continue;
      driver.Add(sequences[i], sequences[i].length() - sequences[i].computed);
      unfinished = true;
    }
    if (unfinished) driver.Step();
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(sequences[i].generated, continuations[i]["output_ids"].get<std::vector<int32_t>>())
        << continuations[i]["prompt"];
  }
  DetachAll(sequences, driver);
}

// Input tokens that only the device knows, prompts in chunks beside sequences that decode.
TEST(CudaModelRunner, TokensStayOnTheDevice) {
  const json continuations = Continuations();
  RunnerDriver driver(Gpu());
  std::vector<DrivenSequence> sequences = GreedySequences(continuations);
  AttachAll(sequences, driver);
  constexpr size_t kTokens = 24;
  for (int step = 0; step < 200; ++step) {
    for (size_t i = 0; i < sequences.size(); ++i) {
      DrivenSequence& sequence = sequences[i];
      const bool decodes = !sequence.generated.empty();
      if (!decodes || sequence.generated.size() >= kTokens) continue;
      driver.Add(sequence, 1, /*from_slot=*/true);
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
      DrivenSequence& sequence = sequences[i];
      const bool starts = step >= static_cast<int>(3 * i);
      if (!starts || !sequence.generated.empty()) continue;
      driver.Add(sequence, std::min(3, sequence.length() - sequence.computed));
    }
    if (driver.batch().num_tokens() > 0) driver.Step();
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto expected = continuations[i]["output_ids"].get<std::vector<int32_t>>();
    expected.resize(std::min(expected.size(), kTokens));
    std::vector<int32_t> generated = sequences[i].generated;
    generated.resize(expected.size());
    EXPECT_EQ(generated, expected) << continuations[i]["prompt"];
  }
  DetachAll(sequences, driver);
}

constexpr int kSampledTokens = 24;
// Logits of the two backends differ by rounding: within this the CPU's second may be the GPU's
// first.
constexpr float kNearTie = 0.05f;

// What the CPU samples after `generated`, once its own choice is worth kNearTie less.
int32_t RunnerUp(ModelRunner& cpu, const DrivenSequence& sequence, size_t generated) {
  DrivenSequence again{.prompt = sequence.prompt, .params = sequence.params};
  again.generated.assign(sequence.generated.begin(), sequence.generated.begin() + generated);
  std::vector<std::pair<int32_t, float>>& bias = again.params.logit_bias;
  const int32_t choice = sequence.generated[generated];
  const auto entry = std::find_if(bias.begin(), bias.end(),
                                  [&](const auto& each) { return each.first == choice; });
  if (entry == bias.end()) {
    bias.emplace_back(choice, -kNearTie);
  } else {
    entry->second -= kNearTie;
  }
  RunnerDriver driver(cpu);
  driver.Attach(again, 0);
  driver.Add(again, again.length());
  driver.Step();
  driver.Detach(again);
  driver.Step();
  return again.generated.back();
}

std::vector<SamplingParams> SamplingCases(const json& continuation) {
  std::vector<SamplingParams> cases(5);
  for (SamplingParams& params : cases) {
    params.temperature = 0;
    params.max_tokens = kSampledTokens;
    params.logprobs = 3;
  }
  cases[1].repetition_penalty = 1.3f;
  cases[2].frequency_penalty = 0.7f;
  cases[2].presence_penalty = 0.4f;
  cases[3].logit_bias = {{continuation["output_ids"][2].get<int32_t>(), -100.0f}};
  cases[4].min_tokens = 8;
  cases[4].stop_token_ids = {continuation["output_ids"][4].get<int32_t>()};
  return cases;
}

// Everything that sampling keeps per slot, and log-probabilities, as on the CPU. The GPU goes on
// from the CPU's token where its own is another, which it may be at a near tie only.
TEST(CudaModelRunner, SamplesAsTheCpuDoes) {
  const json continuations = Continuations();
  std::vector<DrivenSequence> on_cpu;
  for (const SamplingParams& params : SamplingCases(continuations[0])) {
    on_cpu.push_back(
        {.prompt = continuations[0]["prompt_ids"].get<std::vector<int32_t>>(), .params = params});
  }
  std::vector<DrivenSequence> on_gpu = on_cpu;
  const std::unique_ptr<ModelRunner> cpu = Load(RunnerDevice::kCpu);
  RunnerDriver cpu_driver(*cpu);
  RunnerDriver gpu_driver(Gpu());
  AttachAll(on_cpu, cpu_driver);
  AttachAll(on_gpu, gpu_driver);
  int misses = 0;
  for (size_t t = 0; t < kSampledTokens; ++t) {
    for (size_t i = 0; i < on_cpu.size(); ++i) {
      cpu_driver.Add(on_cpu[i], on_cpu[i].length() - on_cpu[i].computed);
      gpu_driver.Add(on_gpu[i], on_gpu[i].length() - on_gpu[i].computed);
    }
    cpu_driver.Step();
    gpu_driver.Step();
    for (size_t i = 0; i < on_cpu.size(); ++i) {
      const int32_t expected = on_cpu[i].generated[t];
      const int32_t chosen = std::exchange(on_gpu[i].generated[t], expected);
      EXPECT_EQ(on_gpu[i].samples[t].top_count, 3);
      if (chosen == expected) {
        EXPECT_NEAR(on_gpu[i].samples[t].logprob, on_cpu[i].samples[t].logprob, kNearTie)
            << "case " << i << ", token " << t;
        continue;
      }
      ++misses;
      EXPECT_EQ(chosen, RunnerUp(*Load(RunnerDevice::kCpu), on_cpu[i], t))
          << "case " << i << ", token " << t;
      const int32_t slot = on_gpu[i].slot;
      gpu_driver.Detach(on_gpu[i]);
      gpu_driver.Attach(on_gpu[i], slot);
    }
  }
  std::cout << misses << " near ties\n";
  EXPECT_LE(misses, 3);
  DetachAll(on_gpu, gpu_driver);
}

TEST(CudaModelRunner, ScoresPromptsAsTheCpuDoes) {
  const json continuations = Continuations();
  std::vector<int32_t> prompt;
  for (const json& continuation : continuations) {
    for (const json& id : continuation["output_ids"]) prompt.push_back(id.get<int32_t>());
  }
  prompt.resize(std::min<size_t>(prompt.size(), 300));  // several groups of logits rows
  const auto score = [&](ModelRunner& runner) {
    RunnerDriver driver(runner);
    std::vector<DrivenSequence> sequences = {{.prompt = prompt}};
    sequences[0].params.temperature = 0;
    AttachAll(sequences, driver);
    const auto count = static_cast<int32_t>(prompt.size());
    driver.Add(sequences[0], count);
    driver.ScorePrompt(sequences[0], 0, count - 1, /*top_k=*/2);
    StepResult result = driver.Step();
    DetachAll(sequences, driver);
    return result;
  };
  const StepResult on_gpu = score(Gpu());
  const StepResult on_cpu = score(*Load(RunnerDevice::kCpu));
  ASSERT_EQ(on_gpu.prompt_logprobs.size(), on_cpu.prompt_logprobs.size());
  for (size_t i = 0; i < on_gpu.prompt_logprobs.size(); ++i) {
    const PromptLogprob& gpu = on_gpu.prompt_logprobs[i];
    EXPECT_FALSE(gpu.nan_logits);
    EXPECT_NEAR(gpu.logprob, on_cpu.prompt_logprobs[i].logprob, 0.15) << "row " << i;
    ASSERT_EQ(gpu.top_count, 2);
    EXPECT_GE(on_gpu.top_logprobs[gpu.top_begin], on_gpu.top_logprobs[gpu.top_begin + 1]);
  }
}

// Two steps in flight are two steps one after the other, whatever they do to slots and pages.
TEST(CudaModelRunner, TwoStepsInFlightSampleWhatOneDoes) {
  for (const uint64_t seed : {1, 2, 3}) {
    std::vector<std::vector<SampledToken>> samples[2];
    for (const int in_flight : {1, 2}) {
      RandomSteps steps(seed, /*max_slots=*/8, Gpu().limits().vocab_size);
      steps.Run(Gpu(), /*steps=*/200, in_flight);
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
        EXPECT_EQ(samples[0][i][t].token, samples[1][i][t].token) << "of " << i << ", " << t;
        EXPECT_EQ(samples[0][i][t].logprob, samples[1][i][t].logprob) << "of " << i << ", " << t;
      }
    }
  }
}

TEST(CudaModelRunner, HasTwoStepsInFlightAndCountsThem) {
  EXPECT_EQ(Gpu().limits().max_steps_in_flight, 2);
  const DeviceStats before = Gpu().device_stats();
  RunnerDriver driver(Gpu());
  std::vector<DrivenSequence> sequences = {{.prompt = {1, 300, 301}}};
  AttachAll(sequences, driver);
  driver.Generate(sequences[0], 3);  // the prompt's step, and two that decode
  DetachAll(sequences, driver);
  const DeviceStats stats = Gpu().device_stats();
  EXPECT_EQ(stats.graph_replays.steps - before.graph_replays.steps, 2);
  EXPECT_GT(stats.eager_steps.steps, before.eager_steps.steps);
  EXPECT_GT(stats.probe_state_bytes, 0);
  EXPECT_EQ(Gpu().probe_state_bytes_used(), 0);  // the device does not tell
  EXPECT_GT(stats.kv_cache_bytes, 0);
  EXPECT_GT(stats.peak_flops_per_second, 0.0);
  EXPECT_GT(stats.start.capture_seconds, 0.0);
  EXPECT_LE(stats.start.capture_seconds, 5.0);
}

}  // namespace
}  // namespace parallax
