// A fault on the device: the step that caused it ends with INTERNAL, and so does all after it.
//
// In a program of its own: the process has lost its GPU afterwards.
#include <limits>
#include <memory>
#include <string>

#include "engine/runner/model_runner_factory.h"
#include "gtest/gtest.h"

namespace parallax {
namespace {

TEST(CudaFault, EndsInInternal) {
  ModelRunnerOptions options;
  options.model = "models/parallax-stories-14m";
  options.device = RunnerDevice::kCuda;
  options.max_num_seqs = 4;
  options.num_kv_pages = 64;
  auto created = CreateModelRunner(options);
  ASSERT_TRUE(created.ok()) << created.status();
  ModelRunner& runner = **created;

  SamplingParams params;
  ForwardBatch batch;
  batch.step_id = 7;
  batch.attached_slots = {
      {.slot = 0, .choice_index = 0, .params = &params, .prompt = {}, .generated = {}}};
  batch.token_ids = {1};
  batch.positions = {0};
  batch.slot_mapping = {int64_t{1} << 40};  // far outside the pages
  batch.sequence_slots = {0};
  batch.query_start = {0, 1};
  batch.context_len = {1};
  batch.block_tables = {0};
  batch.block_table_stride = 1;
  batch.logits_rows = {0};
  batch.samples = {{.logits_index = 0, .slot = 0, .output_position = 0}};
  ASSERT_TRUE(runner.Launch(batch).ok());
  const auto result = runner.Collect();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(result.status().ToString().find("step 7"), std::string::npos) << result.status();
  EXPECT_NE(result.status().ToString().find("cudaError"), std::string::npos) << result.status();

  batch.attached_slots.clear();
  const absl::Status next = runner.Launch(batch);
  EXPECT_TRUE(!next.ok() || !runner.Collect().ok());
}

}  // namespace
}  // namespace parallax
