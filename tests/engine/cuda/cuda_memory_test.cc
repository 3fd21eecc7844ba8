// No step takes GPU memory: neither an allocation nor a kernel that is loaded when it first runs.
//
// In a program of its own, which starts as a server does the second time: with plans of linear
// layers from a file, so that no tuning has run their kernels.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "engine/runner/model_runner_factory.h"
#include "gtest/gtest.h"
#include "kernels/cuda/device_memory.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/runner/random_steps.h"
#include "tests/engine/runner/runner_driver.h"

namespace parallax {
namespace {

using testing::DrivenSequence;
using testing::RandomSteps;
using testing::RunnerDriver;

std::unique_ptr<ModelRunner> Load(const std::string& plan_file, int max_num_seqs) {
  ModelRunnerOptions options;
  options.model = "models/parallax-stories-14m";
  options.device = RunnerDevice::kCuda;
  options.max_num_seqs = max_num_seqs;
  options.num_kv_pages = 512;
  options.gpu_plan_file = plan_file;
  auto runner = CreateModelRunner(options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return runner.ok() ? *std::move(runner) : nullptr;
}

// Before this process uses the GPU: it would not survive the fork.
void WritePlanFile(const std::string& path) {
  const pid_t child = fork();
  if (child == 0) _exit(Load(path, 32) != nullptr ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
}

void ScoreAPrompt(ModelRunner& runner, int rows) {
  RunnerDriver driver(runner);
  DrivenSequence sequence{.prompt = std::vector<int32_t>(rows + 1, 7)};
  driver.Attach(sequence, 0);
  driver.Add(sequence, rows + 1);
  driver.ScorePrompt(sequence, 0, rows, /*top_k=*/2);
  driver.Step();
  driver.Detach(sequence);
  driver.Step();
}

// With few slots no decode step has sampled as many rows at once as a prompt may have to score.
TEST(CudaMemory, IsTheSameBeforeAndAfterAnyStep) {
  const testing::TempFolder folder;
  const std::string plan_file = folder.File("plans");
  WritePlanFile(plan_file);
  for (const int max_num_seqs : {4, 32}) {
    const std::unique_ptr<ModelRunner> runner = Load(plan_file, max_num_seqs);
    const size_t before = kernels::cuda::ReadDeviceMemoryInfo().free_bytes;
    for (const int rows : {3, 9, 12, 17, 40, 64, 299}) ScoreAPrompt(*runner, rows);
    for (const int max_slots : {std::min(8, max_num_seqs), max_num_seqs}) {
      RandomSteps steps(/*seed=*/4, max_slots, runner->limits().vocab_size);
      steps.Run(*runner, /*steps=*/60, /*in_flight=*/2);
      EXPECT_GT(steps.counts().page_copies, 0) << max_slots << " of " << max_num_seqs << " slots";
    }
    EXPECT_EQ(kernels::cuda::ReadDeviceMemoryInfo().free_bytes, before) << max_num_seqs << " slots";
  }
}

}  // namespace
}  // namespace parallax
