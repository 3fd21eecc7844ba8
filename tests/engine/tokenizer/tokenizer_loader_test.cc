// LoadTokenizer: which file it picks, what tokenizer_config.json changes, what it refuses.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "engine/tokenizer/sentencepiece_tokenizer.h"
#include "tests/engine/tokenizer/testdata.h"

namespace parallax {
namespace {

namespace fs = std::filesystem;

class LoadTokenizerTest : public testing::Test {
 protected:
  LoadTokenizerTest() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) /
              ("tokenizer_" + std::to_string(getpid()) + "_" + info->name());
    fs::create_directories(folder_);
  }
  ~LoadTokenizerTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& contents) {
    std::ofstream(folder_ / name, std::ios::binary) << contents;
  }
  void CopyFrom(const std::string& tokenizer, const std::string& name) {
    Write(name, ReadTestdata(TestdataFolder(tokenizer) / name));
  }
  void ExpectRefusal(absl::StatusCode code, const std::string& message) {
    const absl::Status status = LoadTokenizer(folder_).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(std::string(status.message()).find(message), std::string::npos) << status;
  }

  fs::path folder_;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST_F(LoadTokenizerTest, NoTokenizerIsNotFound) {
  ExpectRefusal(absl::StatusCode::kNotFound, folder_.string());
}

TEST_F(LoadTokenizerTest, SentencePieceGoesFirst) {
  CopyFrom("qwen", "tokenizer.json");
  const int32_t json_size = (*LoadTokenizer(folder_))->VocabSize();
  CopyFrom("sp_plain", "tokenizer.model");
  EXPECT_NE((*LoadTokenizer(folder_))->VocabSize(), json_size);
}

TEST_F(LoadTokenizerTest, ErrorsNameTheFile) {
  Write("tokenizer.json", "{}");
  ExpectRefusal(kInvalid, (folder_ / "tokenizer.json").string() + ": $.");
  CopyFrom("qwen", "tokenizer.json");
  Write("tokenizer_config.json", "{\"add_bos_token\": 3}");
  ExpectRefusal(kInvalid, "tokenizer_config.json: $.add_bos_token = 3");
}

TEST_F(LoadTokenizerTest, SentencePieceAddsBosUnlessToldOtherwise) {
  CopyFrom("sp_bpe", "tokenizer.model");
  auto tokenizer = *LoadTokenizer(folder_);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->Encode("", true)->front(), 1);
  Write("tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true,
        "eos_token": {"content": "</s>", "special": true}})");
  tokenizer = *LoadTokenizer(folder_);
  EXPECT_EQ(*tokenizer->Encode("", true), std::vector<int32_t>{2});
  EXPECT_EQ(*tokenizer->Encode("", false), std::vector<int32_t>{});
  Write("tokenizer_config.json", R"({"bos_token": "<start>"})");
  ExpectRefusal(kInvalid, "$.bos_token = \"<start>\"");
}

TEST_F(LoadTokenizerTest, TokensOnlyTheConfigKnowsAreRefused) {
  CopyFrom("sp_bpe", "tokenizer.model");
  Write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"2": {"content": "</s>"}, "900": {"content": "[PAD]"}}})");
  ExpectRefusal(absl::StatusCode::kUnimplemented, "$.added_tokens_decoder.900 = \"[PAD]\"");
}

TEST_F(LoadTokenizerTest, SentencePieceTokensAreBytes) {
  CopyFrom("sp_bpe", "tokenizer.model");
  const auto tokenizer = *LoadTokenizer(folder_);
  EXPECT_EQ(tokenizer->TokenBytes(0), " \xE2\x81\x87 ");  // unknown
  EXPECT_EQ(tokenizer->TokenBytes(1), "<s>");
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  EXPECT_FALSE(tokenizer->IsSpecial(3));
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->TokenBytes(3 + byte), std::string(1, static_cast<char>(byte)));
    EXPECT_FALSE(tokenizer->StartsWithSpaceMark(3 + byte));
  }
  EXPECT_EQ(tokenizer->leading_space(), LeadingSpace::kDropOnce);
  EXPECT_EQ(LoadTestTokenizer("sp_unigram")->leading_space(), LeadingSpace::kDropUntilText);
  EXPECT_EQ(LoadTestTokenizer("sp_plain")->leading_space(), LeadingSpace::kKeep);
}

TEST_F(LoadTokenizerTest, CorruptSentencePieceModelsAreRefused) {
  const std::string model = ReadTestdata(TestdataFolder("sp_unigram") / "tokenizer.model");
  for (const std::string& corrupt :
       {std::string(), std::string("not a model"), std::string(1000, '\0'), std::string(64, '\xFF'),
        model.substr(0, 1), model.substr(0, model.size() / 2), model.substr(0, model.size() - 1)}) {
    Write("tokenizer.model", corrupt);
    ExpectRefusal(kInvalid, "tokenizer.model: not a SentencePiece model");
  }
}

}  // namespace
}  // namespace parallax
