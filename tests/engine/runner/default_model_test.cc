// The model that ships with the server, against what its training code computed: greedy
// continuations, token by token.
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "engine/runner/model_runner_factory.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/runner/runner_driver.h"

namespace parallax {
namespace {

using nlohmann::json;
using testing::DrivenSequence;
using testing::RunnerDriver;

constexpr char kFolder[] = "models/parallax-stories-14m";

std::unique_ptr<ModelRunner> LoadDefaultModel() {
  ModelRunnerOptions options;
  options.model = kFolder;
  options.max_num_seqs = 16;
  options.num_kv_pages = 64;
  auto runner = CreateModelRunner(options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

// All prompts in one batch, so that the continuations are also seen not to disturb each other.
TEST(DefaultModel, ContinuesAsItsTrainingCodeDid) {
  std::ifstream file(std::string(kFolder) + "/testdata/golden.json");
  const json continuations = json::parse(file)["continuations"];
  ASSERT_FALSE(continuations.empty());
  const auto runner = LoadDefaultModel();
  RunnerDriver driver(*runner);
  std::vector<DrivenSequence> sequences(continuations.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].prompt = continuations[i]["prompt_ids"].get<std::vector<int32_t>>();
    sequences[i].params.temperature = 0;
    driver.Attach(sequences[i], static_cast<int32_t>(i));
  }
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
}

}  // namespace
}  // namespace parallax
