#include "engine/tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace parallax {
namespace {

// The pieces in order: text as it is, tokens as "#id".
std::string Pieces(std::vector<AddedToken> tokens, std::string_view text) {
  std::string pieces;
  const auto add = [&](const std::string& piece) { pieces.append("[").append(piece).append("]"); };
  const AddedTokenSplitter splitter(std::move(tokens));
  const absl::Status status = splitter.Split(
      text,
      [&](std::string_view plain) {
        add(std::string(plain));
        return absl::OkStatus();
      },
      [&](int32_t id) { add(absl::StrCat("#", id)); });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

TEST(AddedTokenSplitter, LeftmostThenLongestAndNeverOverlapping) {
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "ab"}, {.id = 2, .content = "abab"}, {.id = 3, .content = "bc"}};
  EXPECT_EQ(Pieces(tokens, "xababc"), "[x][#2][c]");
  EXPECT_EQ(Pieces(tokens, "abc"), "[#1][c]");
  EXPECT_EQ(Pieces(tokens, "ababab"), "[#2][#1]");
  EXPECT_EQ(Pieces(tokens, "a"), "[a]");
}

TEST(AddedTokenSplitter, StripsTakeUnicodeWhiteSpace) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<l>", .lstrip = true},
                                          {.id = 2, .content = "<r>", .rstrip = true}};
  EXPECT_EQ(Pieces(tokens, "a \u3000\n<l> b"), "[a][#1][ b]");
  EXPECT_EQ(Pieces(tokens, "a <r>\t\u2003b"), "[a ][#2][b]");
  EXPECT_EQ(Pieces(tokens, "<r>  <l>"), "[#2][#1]");  // the space is taken once
  EXPECT_EQ(Pieces(tokens, " <l>"), "[#1]");
}

TEST(AddedTokenSplitter, SingleWordsStandAlone) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "cat", .single_word = true}};
  EXPECT_EQ(Pieces(tokens, "cat"), "[#1]");
  EXPECT_EQ(Pieces(tokens, "(cat)"), "[(][#1][)]");
  EXPECT_EQ(Pieces(tokens, "cats"), "[cats]");
  EXPECT_EQ(Pieces(tokens, "\u00e9cat"), "[\u00e9cat]");
  EXPECT_EQ(Pieces(tokens, "cat_"), "[cat_]");
  EXPECT_EQ(Pieces(tokens, "catcat cat"), "[catcat ][#1]");
}

TEST(AddedTokenSplitter, ErrorsOfTheTextStopIt) {
  const AddedTokenSplitter splitter({{.id = 1, .content = "|"}});
  int tokens_seen = 0;
  const absl::Status status = splitter.Split(
      "a|b|c", [](std::string_view) { return absl::InvalidArgumentError("no"); },
      [&](int32_t) { ++tokens_seen; });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tokens_seen, 0);
}

}  // namespace
}  // namespace parallax
