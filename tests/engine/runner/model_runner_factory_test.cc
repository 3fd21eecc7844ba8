#include "engine/runner/model_runner_factory.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/runner/runner_driver.h"

namespace parallax {
namespace {

using testing::CheckpointSpec;
using testing::DrivenSequence;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RunnerDriver;
using testing::TempFolder;
using testing::TinySpec;
using testing::WriteFile;

class Factory : public ::testing::Test {
 protected:
  Factory() {
    WriteRandomCheckpoint(spec_, folder_.path());
    options_.model = folder_.path();
    options_.max_model_len = 256;
    options_.memory_budget_bytes = 256 << 20;
  }

  absl::Status Refusal() { return CreateModelRunner(options_).status(); }

  const CheckpointSpec spec_ = TinySpec();
  const TempFolder folder_;
  ModelRunnerOptions options_;
};

TEST_F(Factory, FillsTheBudgetWithUsefulPages) {
  const auto runner = CreateModelRunner(options_);
  ASSERT_TRUE(runner.ok()) << runner.status();
  EXPECT_EQ((*runner)->limits().num_pages, 64 * 256 / kPageTokens);
  EXPECT_EQ((*runner)->limits().max_context_tokens, 256);
  EXPECT_EQ((*runner)->description().kv_dtype, "bfloat16");
}

TEST_F(Factory, ContextDefaultsToTheCheckpoints) {
  options_.max_model_len = 0;
  EXPECT_EQ((*CreateModelRunner(options_))->limits().max_context_tokens, 4096);
  options_.max_model_len = 4097;
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("max_model_len = 4097"));
}

TEST_F(Factory, SaysWhatToLowerWhenMemoryIsShort) {
  options_.memory_budget_bytes = 2 << 20;
  EXPECT_EQ(Refusal().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("lower the maximum model length"));
  options_.memory_budget_bytes = 100 << 10;
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("more than the memory budget"));
}

TEST_F(Factory, NamesWhatIsMissing) {
  options_.model = folder_.File("nowhere");
  EXPECT_EQ(Refusal().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("nowhere/config.json"));
}

TEST_F(Factory, NamesTheFolderOfABadConfig) {
  WriteFile(folder_.File("config.json"), "{}");
  EXPECT_EQ(Refusal().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr(folder_.path() + ": config.json: "));
}

TEST_F(Factory, RefusesShapesTheOpsCannotServe) {
  CheckpointSpec spec = spec_;
  spec.shape.head_dim = 24;
  WriteRandomCheckpoint(spec, folder_.path());
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("head_dim = 24"));
}

TEST_F(Factory, RefusesOptionsByName) {
  const std::pair<std::function<void(ModelRunnerOptions&)>, const char*> cases[] = {
      {[](ModelRunnerOptions& o) { o.max_num_seqs = 0; }, "max_num_seqs = 0"},
      {[](ModelRunnerOptions& o) { o.max_num_batched_tokens = -1; }, "max_num_batched_tokens = -1"},
      {[](ModelRunnerOptions& o) { o.token_limit = 98; }, "token_limit = 98"},
      {[](ModelRunnerOptions& o) {
         o.token_mask = {1, 1, 1};
       },
       "token_mask has 96 bits"},
      {[](ModelRunnerOptions& o) {
         o.eos_token_ids = {3, 97};
       },
       "eos_token_ids: 97 is outside the vocabulary [0, 97)"},
      {[](ModelRunnerOptions& o) { o.num_kv_pages = 3; }, "3 KV pages cannot hold"},
      {[](ModelRunnerOptions& o) { o.max_model_len = -1; }, "max_model_len = -1"},
      {[](ModelRunnerOptions& o) { o.max_model_len = INT32_MAX; }, "max_model_len = 2147483647"},
      {[](ModelRunnerOptions& o) { o.num_kv_pages = 1 << 30; }, "num_kv_pages = 1073741824"},
  };
  for (const auto& [change, message] : cases) {
    ModelRunnerOptions changed = options_;
    change(changed);
    EXPECT_THAT(std::string(CreateModelRunner(changed).status().message()), HasSubstr(message));
  }
}

TEST_F(Factory, DummyWeightsNeedNoFiles) {
  const TempFolder empty;
  WriteFile(empty.File("config.json"), MakeConfig(spec_).dump());
  options_.model = empty.path();
  options_.load_format = LoadFormat::kDummy;
  options_.max_num_batched_tokens = 64;
  const auto runner = CreateModelRunner(options_);
  ASSERT_TRUE(runner.ok()) << runner.status();
  RunnerDriver driver(**runner);
  DrivenSequence sequence{.prompt = {1, 2, 3}};
  driver.Attach(sequence, 0);
  driver.Generate(sequence, 5);
  for (const SampledToken& sample : sequence.samples) EXPECT_FALSE(sample.nan_logits);
}

TEST_F(Factory, NullModel) {
  options_.model = "null";
  const auto runner = CreateModelRunner(options_);
  ASSERT_TRUE(runner.ok()) << runner.status();
  EXPECT_EQ((*runner)->description().name, "null");
  EXPECT_EQ((*runner)->limits().max_context_tokens, 256);
  options_.num_kv_pages = 1 << 30;
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("num_pages = 1073741824"));
  options_.num_kv_pages = 8;
  options_.null_step_time = std::chrono::seconds(-1);
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("step_time"));
}

TEST_F(Factory, GenerationConfigNamesTheStopTokens) {
  nlohmann::json config = MakeConfig(spec_);
  config["eos_token_id"] = 3;
  WriteFile(folder_.File("config.json"), config.dump());
  EXPECT_THAT(ReadModelFolder(folder_.path())->eos_token_ids, ElementsAre(3));
  WriteFile(folder_.File("generation_config.json"), R"({"eos_token_id": [4, 5], "top_k": 7})");
  const auto folder = ReadModelFolder(folder_.path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_THAT(folder->eos_token_ids, ElementsAre(4, 5));
  EXPECT_EQ(*folder->generation.top_k, 7);
  WriteFile(folder_.File("generation_config.json"), R"({"eos_token_id": 97})");
  EXPECT_THAT(std::string(ReadModelFolder(folder_.path()).status().message()),
              HasSubstr("generation_config.json: eos_token_id = 97"));
}

}  // namespace
}  // namespace parallax
