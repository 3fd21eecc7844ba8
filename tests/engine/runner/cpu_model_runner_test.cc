// What is the CPU backend's own. What it shares with the GPU's is in model_runner_test.cc.
#include "engine/runner/cpu_model_runner.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runner/model_runner_fixture.h"

namespace parallax {
namespace {

using testing::DrivenSequence;
using ::testing::HasSubstr;
using testing::RunnerDriver;

using CpuRunner = testing::ModelRunnerTest;

TEST_F(CpuRunner, AStepThatTheOpsRefuseIsNotTheEndOfTheBackend) {
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
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 3"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("96"));

  DrivenSequence sequence = Prompt(20);
  const std::vector<int32_t> expected = Alone(sequence, 3);
  RunnerDriver driver(*runner);
  driver.Attach(sequence, 0);
  driver.Generate(sequence, 3);
  EXPECT_EQ(sequence.generated, expected);
}

TEST_F(CpuRunner, AStopTokenOutsideTheVocabularyIsRefused) {
  const auto runner = MakeRunner();
  DrivenSequence held = Prompt(20);
  held.params.min_tokens = 2;
  held.params.stop_token_ids = {kVocab};
  RunnerDriver driver(*runner);
  driver.Attach(held, 0);
  driver.Add(held, 20);
  EXPECT_EQ(runner->Launch(driver.batch()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(runner->Collect().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CpuRunner, TellsNoTokenLeftFromNan) {
  ModelRunnerOptions options = Options();
  for (int32_t id = 64; id < kVocab; ++id) options.eos_token_ids.push_back(id);
  const auto runner = MakeRunner(options);
  DrivenSequence held = Prompt(20);
  held.params.min_tokens = 2;
  for (int32_t id = 0; id < 64; ++id) held.params.stop_token_ids.push_back(id);
  RunnerDriver driver(*runner);
  driver.Attach(held, 0);
  driver.Add(held, 20);
  const StepResult result = driver.Step();
  EXPECT_TRUE(result.samples[0].no_token_left);
  EXPECT_FALSE(result.samples[0].nan_logits);
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
