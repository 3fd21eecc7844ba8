#include "engine/tokenizer/incremental_detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <utility>

#include "engine/tokenizer/utf8.h"
#include "tests/engine/tokenizer/testdata.h"

namespace parallax {
namespace {

class FakeTokenizer final : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<TokenEntry> entries, LeadingSpace space = LeadingSpace::kKeep)
      : Tokenizer(TokenTable(entries), space, std::nullopt, std::nullopt) {}
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view, bool) const override {
    return absl::UnimplementedError("fake");
  }
};

FakeTokenizer WithTokens(const std::vector<std::string>& tokens,
                         LeadingSpace space = LeadingSpace::kKeep) {
  std::vector<TokenEntry> entries;
  for (const std::string& token : tokens) {
    entries.push_back({.bytes = token, .present = true, .space_mark = token.starts_with(' ')});
  }
  return FakeTokenizer(entries, space);
}

// The delta of each token, then that of Flush.
std::vector<std::string> Deltas(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt,
                                const std::vector<int32_t>& ids, bool skip_special = true) {
  IncrementalDetokenizer detokenizer(tokenizer, prompt, skip_special);
  std::vector<std::string> deltas;
  for (const int32_t id : ids) detokenizer.Append(id, &deltas.emplace_back());
  detokenizer.Flush(&deltas.emplace_back());
  return deltas;
}

using Strings = std::vector<std::string>;

TEST(IncrementalDetokenizer, HoldsBackUnfinishedCharacters) {
  const FakeTokenizer tokenizer =
      WithTokens({"\xF0", "\x9F", "\x98", "\x80", "a\xE2\x82", "\xAC!"});
  EXPECT_EQ(Deltas(tokenizer, {}, {0, 1, 2, 3}), (Strings{"", "", "", "\xF0\x9F\x98\x80", ""}));
  EXPECT_EQ(Deltas(tokenizer, {}, {4, 5}), (Strings{"a", "\xE2\x82\xAC!", ""}));
}

TEST(IncrementalDetokenizer, AnInvalidSubpartIsOneReplacementCharacter) {
  const FakeTokenizer tokenizer =
      WithTokens({"\xE1\x80", "\xE2", "\xF0\x91\x92", "\xF1\xBF", "A", "\xFF\x80",
                  "\xE1\x80"
                  "A"});
  EXPECT_EQ(Deltas(tokenizer, {}, {0, 1, 2, 3, 4}),
            (Strings{"", "\uFFFD", "\uFFFD", "\uFFFD", "\uFFFDA", ""}));
  EXPECT_EQ(Deltas(tokenizer, {}, {5}), (Strings{"\uFFFD\uFFFD", ""}));
  EXPECT_EQ(Deltas(tokenizer, {}, {6}), (Strings{"\uFFFDA", ""}));
  EXPECT_EQ(Deltas(tokenizer, {}, {2}), (Strings{"", "\uFFFD"}));
}

TEST(IncrementalDetokenizer, AByteThatCannotContinueStartsAnew) {
  const FakeTokenizer tokenizer = WithTokens({"\xE2\x82", "\xE2\x82\xAC", "\xC3", "\xA9"});
  EXPECT_EQ(Deltas(tokenizer, {}, {0, 1}), (Strings{"", "\uFFFD\xE2\x82\xAC", ""}));
  EXPECT_EQ(Deltas(tokenizer, {}, {0, 2, 3}), (Strings{"", "\uFFFD", "\xC3\xA9", ""}));
}

TEST(IncrementalDetokenizer, SpecialTokensAreSkippedInsideACharacterToo) {
  const FakeTokenizer tokenizer({{.bytes = "\xC3", .present = true},
                                 {.bytes = "<eos>", .present = true, .special = true},
                                 {.bytes = "\xA9", .present = true}});
  EXPECT_EQ(Deltas(tokenizer, {}, {0, 1, 2}), (Strings{"", "", "\xC3\xA9", ""}));
  EXPECT_EQ(Deltas(tokenizer, {}, {0, 1, 2}, /*skip_special=*/false),
            (Strings{"", "\uFFFD<eos>", "\uFFFD", ""}));
}

TEST(IncrementalDetokenizer, TheFirstSpaceIsTextOnlyBehindAPrompt) {
  const FakeTokenizer once = WithTokens({" a", " ", "b"}, LeadingSpace::kDropOnce);
  EXPECT_EQ(Deltas(once, {}, {0, 0}), (Strings{"a", " a", ""}));
  EXPECT_EQ(Deltas(once, {}, {1, 0}), (Strings{"", " a", ""}));
  EXPECT_EQ(Deltas(once, {}, {2, 0}), (Strings{"b", " a", ""}));
  EXPECT_EQ(Deltas(once, {2}, {0}), (Strings{" a", ""}));
  const FakeTokenizer until = WithTokens({" a", " ", "b"}, LeadingSpace::kDropUntilText);
  EXPECT_EQ(Deltas(until, {}, {1, 1, 0, 0}), (Strings{"", "", "a", " a", ""}));
  EXPECT_EQ(Deltas(until, {1}, {0}), (Strings{"a", ""}));
  const FakeTokenizer keep = WithTokens({" a"});
  EXPECT_EQ(Deltas(keep, {}, {0}), (Strings{" a", ""}));
}

TEST(IncrementalDetokenizer, APromptOfSpecialTokensIsNoText) {
  const FakeTokenizer tokenizer({{.bytes = "<s>", .present = true, .special = true},
                                 {.bytes = " a", .present = true, .space_mark = true}},
                                LeadingSpace::kDropOnce);
  EXPECT_EQ(Deltas(tokenizer, {0}, {1}), (Strings{"a", ""}));
  EXPECT_EQ(Deltas(tokenizer, {0}, {1}, /*skip_special=*/false), (Strings{" a", ""}));
}

TEST(IncrementalDetokenizer, CompletesTheCharacterThatThePromptBegan) {
  const FakeTokenizer tokenizer = WithTokens({"x\xF0\x9F", "\x98", "\x80y"});
  EXPECT_EQ(Deltas(tokenizer, {0}, {1, 2}), (Strings{"", "\xF0\x9F\x98\x80y", ""}));
  EXPECT_EQ(Deltas(tokenizer, {0, 1}, {2}), (Strings{"\xF0\x9F\x98\x80y", ""}));
  EXPECT_EQ(Deltas(tokenizer, {0, 1, 2}, {2}), (Strings{"\uFFFDy", ""}));
}

TEST(IncrementalDetokenizer, InvalidIdsGiveNothing) {
  const FakeTokenizer tokenizer({{.bytes = "a", .present = true}, {.bytes = "hole"}});
  EXPECT_EQ(Deltas(tokenizer, {}, {1, -1, 99, 0}), (Strings{"", "", "", "a", ""}));
}

class RandomIds : public testing::TestWithParam<const char*> {};

// Ids at random, cut into prompt and continuation at random: every delta is valid UTF-8, and
// the text of both is the text of the whole.
TEST_P(RandomIds, DeltasAddUpToTheWholeText) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadTestTokenizer(GetParam());
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 500; ++i) {
    std::vector<int32_t> ids(random() % 40);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % (tokenizer->VocabSize() + 2));
    // Low ids are single bytes: many of them make ill-formed sequences.
    for (int32_t& id : ids) id = random() % 2 == 0 ? id : id % 256;
    const bool skip_special = random() % 2 == 0;
    std::string joined;
    for (const std::string& delta : Deltas(*tokenizer, {}, ids, skip_special)) {
      ASSERT_EQ(FindInvalidUtf8(delta), std::nullopt);
      joined += delta;
    }
    const std::string whole = tokenizer->Decode(ids, skip_special);
    ASSERT_EQ(joined, whole);

    const size_t cut = ids.empty() ? 0 : random() % ids.size();
    const std::vector<int32_t> prompt(ids.begin(), ids.begin() + cut);
    std::string continued;
    for (const std::string& delta :
         Deltas(*tokenizer, prompt, {ids.begin() + cut, ids.end()}, skip_special)) {
      continued += delta;
    }
    // The prompt's own text, without the character it leaves unfinished.
    IncrementalDetokenizer prompt_text(*tokenizer, {}, skip_special);
    std::string before;
    for (const int32_t id : prompt) prompt_text.Append(id, &before);
    ASSERT_EQ(before + continued, whole);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RandomIds,
                         testing::Values("gpt2", "qwen", "llama3", "sp_unigram", "sp_bpe",
                                         "sp_plain"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace parallax
