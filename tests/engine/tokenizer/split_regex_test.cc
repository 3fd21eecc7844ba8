#include "engine/tokenizer/split_regex.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/regex_dialect.h"
#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

std::vector<std::string> Words(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string> words;
  const absl::Status status =
      pre_tokenizer.Split(text, [&](std::string_view word) { words.emplace_back(word); });
  EXPECT_TRUE(status.ok()) << status;
  return words;
}

PreTokenizer SplitBy(std::string_view pattern, bool drop_unmatched = false) {
  absl::StatusOr<SplitRegex> regex = SplitRegex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  std::vector<PreTokenizerStage> stages;
  stages.push_back({std::make_unique<SplitRegex>(*std::move(regex)), drop_unmatched});
  return PreTokenizer(std::move(stages));
}

using Strings = std::vector<std::string>;

TEST(PreTokenizer, MatchesAndWhatLiesBetweenThemAreWords) {
  EXPECT_EQ(Words(SplitBy(R"(\p{N}+)"), "a12b3"), (Strings{"a", "12", "b", "3"}));
  EXPECT_EQ(Words(SplitBy(R"(\p{N}+)", /*drop_unmatched=*/true), "a12b3"), (Strings{"12", "3"}));
  EXPECT_EQ(Words(SplitBy("x"), ""), Strings{});
}

TEST(PreTokenizer, EmptyMatchesCutWithoutLosingText) {
  EXPECT_EQ(Words(SplitBy("(?=[A-Z])"), "fooBarÉX"), (Strings{"foo", "BarÉ", "X"}));
  EXPECT_EQ(Words(SplitBy("é*"), "aéé中"), (Strings{"a", "éé", "中"}));
}

TEST(PreTokenizer, EachStageCutsThePiecesOfTheOneBefore) {
  std::vector<PreTokenizerStage> stages;
  stages.push_back({std::make_unique<SplitRegex>(*SplitRegex::CompileLiteral("."))});
  stages.push_back({});
  stages.push_back({std::make_unique<SplitRegex>(*SplitRegex::Compile("[0-9]"))});
  EXPECT_EQ(Words(PreTokenizer(std::move(stages)), "a1.b"), (Strings{" a", "1", " .", " b"}));
}

TEST(SplitRegex, WhiteSpaceIsUnicodesAndNotPcres) {
  const PreTokenizer spaces = SplitBy(R"(\s)", /*drop_unmatched=*/true);
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    const bool expected = (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 ||
                          c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
                          c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_EQ(!Words(spaces, text).empty(), expected) << std::hex << uint32_t{c};
  }
}

TEST(SplitRegex, DigitsAndCaseAreUnicodes) {
  EXPECT_EQ(Words(SplitBy(R"(\d+)", /*drop_unmatched=*/true), "a12٣b½"), Strings{"12٣"});
  EXPECT_EQ(Words(SplitBy("(?i:é|s)", /*drop_unmatched=*/true), "ÉſS"), (Strings{"É", "ſ", "S"}));
}

TEST(SplitRegex, EndlessBacktrackingIsAnError) {
  const PreTokenizer nested = SplitBy("(a+a+)+[bc]");
  const absl::Status status = nested.Split(std::string(5000, 'a'), [](std::string_view) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

TEST(SplitRegex, DeepMatchesLeaveTheJitStack) {
  // Each round of the group is remembered: more than the JIT's 32 KiB hold.
  const PreTokenizer grouped = SplitBy("(?:(a)|(b))+c");
  const std::string text = std::string(20000, 'a') + "c";
  EXPECT_EQ(Words(grouped, text), Strings{text});
}

TEST(TranslateOniguruma, KnownPatternsTranslate) {
  EXPECT_EQ(*TranslateOniguruma(R"(\p{Lu}\p{Han}[^\r\n\x41\u4e2d]{1,3}(?i:'s)\.)"),
            R"(\p{Lu}\p{sc:Han}[^\r\n\x{41}\x{4e2d}]{1,3}(?i:'s)\.)");
}

TEST(TranslateOniguruma, WhatDiffersIsRefusedByName) {
  for (const char* construct :
       {R"(\w)",   R"(\W)",     R"(\b)",   R"(\h)",   R"(\R)",   R"(\X)",
        R"(\G)",   R"(\k<n>)",  R"(\1)",   R"(\v)",   R"(\xE9)", R"(\u12)",
        R"(\x{})", R"(\p{^L})", R"(\pL)",  "[a[bc]]", "[a&&b]",  "[[:alpha:]]",
        "[]a]",    R"([\S])",   R"([\w])", "(?i)",    "(?m:a)",  "(?<name>a)",
        "(*FAIL)", "a{,3}",     "a{2}+",   "a{",      "[a",      "\\"}) {
    const auto translated = TranslateOniguruma(construct);
    EXPECT_EQ(translated.status().code(), absl::StatusCode::kUnimplemented) << construct;
    EXPECT_NE(translated.status().message().find("at byte"), absl::string_view::npos) << construct;
  }
}

TEST(SplitRegex, MalformedPatternsAreInvalid) {
  for (const char* pattern : {"(a", "a)", "*a", "[b-a]", R"(\p{Xq})"}) {
    EXPECT_EQ(SplitRegex::Compile(pattern).status().code(), absl::StatusCode::kInvalidArgument)
        << pattern;
  }
}

}  // namespace
}  // namespace parallax
