// Every test tokenizer against the ids and the text of the reference Python packages.
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "tests/engine/tokenizer/testdata.h"

namespace parallax {
namespace {

class ReferenceIds : public testing::TestWithParam<const char*> {
 protected:
  const std::unique_ptr<Tokenizer> tokenizer_ = LoadTestTokenizer(GetParam());
  const std::vector<ExpectedEncoding> expected_ = LoadExpected(GetParam());
};

TEST_P(ReferenceIds, EncodeGivesTheReferenceIds) {
  ASSERT_GT(expected_.size(), 100u);
  for (const ExpectedEncoding& expected : expected_) {
    const auto ids = tokenizer_->Encode(expected.text, /*add_special_tokens=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected.ids) << testing::PrintToString(expected.text);
  }
}

TEST_P(ReferenceIds, SpecialTokensStandAroundTheTextAsInTheReference) {
  for (const ExpectedEncoding& expected : expected_) {
    if (!expected.with_special.has_value()) continue;
    EXPECT_EQ(*tokenizer_->Encode(expected.text, true), *expected.with_special)
        << testing::PrintToString(expected.text);
  }
}

TEST_P(ReferenceIds, DecodeGivesTheReferenceText) {
  for (const ExpectedEncoding& expected : expected_) {
    EXPECT_EQ(tokenizer_->Decode(expected.ids, /*skip_special_tokens=*/false), expected.decoded);
    EXPECT_EQ(tokenizer_->Decode(expected.ids, /*skip_special_tokens=*/true),
              expected.decoded_skip);
  }
}

TEST_P(ReferenceIds, ManyThreadsMayEncodeAtOnce) {
  const auto encode_all = [&](bool* same) {
    for (const ExpectedEncoding& expected : expected_) {
      *same = *same && *tokenizer_->Encode(expected.text, false) == expected.ids;
    }
  };
  bool same[4] = {true, true, true, true};
  std::vector<std::thread> threads;
  for (bool& flag : same) threads.emplace_back(encode_all, &flag);
  for (std::thread& thread : threads) thread.join();
  for (const bool flag : same) EXPECT_TRUE(flag);
}

TEST_P(ReferenceIds, InvalidUtf8IsRefused) {
  const auto ids = tokenizer_->Encode("ok \xE2\x82", true);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(ids.status().message().find("byte 3"), absl::string_view::npos) << ids.status();
}

TEST_P(ReferenceIds, IdsOutsideTheVocabularyAreInvalidAndEmpty) {
  const int32_t size = tokenizer_->VocabSize();
  for (const int32_t id : {-1, INT32_MIN, size, size + 1, INT32_MAX}) {
    EXPECT_FALSE(tokenizer_->IsValidId(id)) << id;
    EXPECT_FALSE(tokenizer_->IsSpecial(id)) << id;
    EXPECT_TRUE(tokenizer_->TokenBytes(id).empty()) << id;
  }
  EXPECT_TRUE(tokenizer_->IsValidId(0));
  EXPECT_TRUE(tokenizer_->IsValidId(size - 1));
}

INSTANTIATE_TEST_SUITE_P(All, ReferenceIds,
                         testing::Values("gpt2", "gpt2_prefix_space", "qwen", "llama3", "deepseek",
                                         "sp_unigram", "sp_bpe", "sp_plain"),
                         [](const auto& info) { return std::string(info.param); });

// Tokenizers that keep every character of the text: decoding gives it back.
class RoundTrip : public testing::TestWithParam<const char*> {};

std::string RandomText(std::mt19937* random) {
  static const std::vector<std::string> kAlphabet = {"a",
                                                     "b",
                                                     "Z",
                                                     " ",
                                                     "  ",
                                                     "\n",
                                                     "\r\n",
                                                     "\t",
                                                     "'",
                                                     "s",
                                                     "1",
                                                     "234",
                                                     ".",
                                                     "-",
                                                     "é",
                                                     "ß",
                                                     "ж",
                                                     "中",
                                                     "\xCC\x81",
                                                     "ह",
                                                     "ि",
                                                     "\xE2\x80\x8D",
                                                     "\xF0\x9F\x98\x80",
                                                     "\xC2\xA0",
                                                     "<",
                                                     "\x7F",
                                                     "\x01",
                                                     "the",
                                                     "ing",
                                                     "\xEF\xBF\xBD",
                                                     "\xF4\x8F\xBF\xBF",
                                                     "\xC2\x85"};
  std::string text;
  for (int length = static_cast<int>((*random)() % 60); length > 0; --length) {
    text += kAlphabet[(*random)() % kAlphabet.size()];
  }
  return text;
}

TEST_P(RoundTrip, DecodeInvertsEncode) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadTestTokenizer(GetParam());
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 300; ++i) {
    const std::string text = RandomText(&random);
    const auto ids = tokenizer->Encode(text, false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    ASSERT_EQ(tokenizer->Decode(*ids, false), text);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RoundTrip,
                         testing::Values("gpt2", "llama3", "deepseek", "sp_bpe", "sp_plain"),
                         [](const auto& info) { return std::string(info.param); });

// A prompt's length is the sender's choice: no text may take more than near-linear time.
TEST(LongTexts, TakeNearLinearTime) {
  std::vector<std::string> texts;
  for (const char* unit : {" ", "a", "\n", "A", "1", "=", "<", " a", "'", "\xCC\x81\xCC\xA3", "中",
                           "ि", " \n", "[MASK] ", "<|im_"}) {
    std::string text;
    while (text.size() < 50'000) text += unit;
    texts.push_back(text);
  }
  for (const char* name : {"gpt2", "qwen", "deepseek", "sp_bpe"}) {
    const std::unique_ptr<Tokenizer> tokenizer = LoadTestTokenizer(name);
    for (const std::string& text : texts) {
      const auto start = std::chrono::steady_clock::now();
      const auto ids = tokenizer->Encode(text, false);
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      ASSERT_TRUE(ids.ok()) << name << ": " << ids.status();
      // Linear is some 20 ms here; quadratic would be minutes. The bound suits sanitizers.
      EXPECT_LT(taken.count(), 10.0) << name << " on " << text.substr(0, 8);
    }
  }
}

}  // namespace
}  // namespace parallax
