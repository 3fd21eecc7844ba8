// Where a tokenizer and a checkpoint do not fit together: refused at the start, by file and
// value, or made to fit; never found out by a request.
#include "server/model_loading.h"

#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/runner/runner_driver.h"
#include "tests/engine/tokenizer/testdata.h"

namespace parallax::server {
namespace {

using parallax::testing::CheckpointSpec;
using parallax::testing::DrivenSequence;
using parallax::testing::RunnerDriver;
using parallax::testing::TempFolder;
using parallax::testing::TinySpec;
using parallax::testing::WriteFile;
using ::testing::HasSubstr;

class ModelLoadingTest : public ::testing::Test {
 protected:
  void WriteModel(int64_t vocab_size) {
    CheckpointSpec spec = TinySpec();
    spec.shape.vocab = static_cast<int>(vocab_size);
    WriteRandomCheckpoint(spec, folder_.path());
  }

  // `added` stands in the tokenizer beside what it has.
  void WriteTokenizer(const std::string& name, const nlohmann::json& added = nullptr) {
    auto document = nlohmann::json::parse(ReadTestdata(TestdataFolder(name) / "tokenizer.json"));
    if (!added.is_null()) document["added_tokens"].push_back(added);
    WriteFile(folder_.File("tokenizer.json"), document.dump());
  }

  void WriteTokenizerConfig(const std::string& text) {
    WriteFile(folder_.File("tokenizer_config.json"), text);
  }

  absl::StatusOr<LoadedModel> Load() {
    ServerConfig config;
    config.model = folder_.path();
    config.device = "cpu";
    config.threads = 1;
    config.max_context_tokens = 256;
    config.max_num_seqs = 2;
    config.max_num_batched_tokens = 64;
    config.memory_bytes = 64 << 20;
    return LoadModel(config);
  }

  void ExpectRefused(const std::string& what) {
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_.File("tokenizer.json: ")));
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }

  const TempFolder folder_;
};

TEST_F(ModelLoadingTest, RefusesAnEosTokenWithoutARow) {
  WriteModel(1000);
  WriteTokenizer("qwen");
  EXPECT_TRUE(Load().ok());
  WriteTokenizerConfig(R"({"eos_token": "<|endoftext|>"})");
  ExpectRefused("eos token id = 1000: config.json's vocab_size 1000 has no row for it");
  WriteModel(1001);
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->served.eos_token_ids, ::testing::ElementsAre(1000));
}

TEST_F(ModelLoadingTest, RefusesATemplateTokenWithoutARow) {
  WriteModel(908);
  WriteTokenizer("llama3");
  ExpectRefused("token id of every prompt = 908");
}

TEST_F(ModelLoadingTest, RefusesABosTokenWithoutARow) {
  WriteModel(905);
  WriteTokenizer("llama3");
  WriteTokenizerConfig(R"({"bos_token": "<|begin|>"})");
  ExpectRefused("bos token id = 905");
}

// An id in a hole has no text and is refused when it is sent back.
TEST_F(ModelLoadingTest, NeverSamplesFromAHoleOfTheTokenizer) {
  WriteModel(1200);
  WriteTokenizer("qwen", {{"id", 1150},
                          {"content", "<far>"},
                          {"single_word", false},
                          {"lstrip", false},
                          {"rstrip", false},
                          {"normalized", false},
                          {"special", true}});
  auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_FALSE(loaded->tokenizer->IsValidId(1100));
  RunnerDriver driver(*loaded->runner);
  DrivenSequence sequence{.prompt = {1, 2, 3}};
  sequence.params.temperature = 100;
  sequence.params.max_tokens = 200;
  driver.Attach(sequence, 0);
  driver.Generate(sequence, 200, /*chunk=*/64);
  for (const int32_t token : sequence.generated) {
    EXPECT_TRUE(loaded->tokenizer->IsValidId(token)) << token;
  }
}

TEST_F(ModelLoadingTest, AFolderThatCannotBeReadIsAnError) {
  WriteModel(1000);
  ASSERT_EQ(symlink("generation_config.json", folder_.File("generation_config.json").c_str()), 0);
  const absl::Status status = Load().status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("generation_config.json"));
}

}  // namespace
}  // namespace parallax::server
