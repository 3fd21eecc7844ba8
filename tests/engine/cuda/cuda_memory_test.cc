// No step takes GPU memory: neither an allocation nor a kernel that is loaded when it first runs.
//
// In a program of its own, which starts as a server does the second time: with plans of linear
// layers from a file, so that no tuning has run their kernels.
#include <sys/wait.h>
#include <unistd.h>

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

std::unique_ptr<ModelRunner> Load(const std::string& plan_file) {
  ModelRunnerOptions options;
  options.model = "models/parallax-stories-14m";
  options.device = RunnerDevice::kCuda;
  options.max_num_seqs = 32;
  options.num_kv_pages = 512;
  options.gpu_plan_file = plan_file;
  auto runner = CreateModelRunner(options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return runner.ok() ? *std::move(runner) : nullptr;
}

// Before this process uses the GPU: it would not survive the fork.
void WritePlanFile(const std::string& path) {
  const pid_t child = fork();
  if (child == 0) _exit(Load(path) != nullptr ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
}

void ScoreAPrompt(ModelRunner& runner) {
  RunnerDriver driver(runner);
  DrivenSequence sequence{.prompt = std::vector<int32_t>(300, 7)};
  driver.Attach(sequence, 0);
  driver.Add(sequence, 300);
  driver.ScorePrompt(sequence, 0, 299, /*top_k=*/2);
  driver.Step();
  driver.Detach(sequence);
  driver.Step();
}

TEST(CudaMemory, IsTheSameBeforeAndAfterAnyStep) {
  const testing::TempFolder folder;
  const std::string plan_file = folder.File("plans");
  WritePlanFile(plan_file);
  const std::unique_ptr<ModelRunner> runner = Load(plan_file);
  const size_t before = kernels::cuda::ReadDeviceMemoryInfo().free_bytes;
  ScoreAPrompt(*runner);
  for (const int max_slots : {8, 32}) {
    RandomSteps steps(/*seed=*/4, max_slots, runner->limits().vocab_size);
    steps.Run(*runner, /*steps=*/60, /*in_flight=*/2);
    EXPECT_GT(steps.counts().page_copies, 0);
  }
  EXPECT_EQ(kernels::cuda::ReadDeviceMemoryInfo().free_bytes, before);
}

}  // namespace
}  // namespace parallax
