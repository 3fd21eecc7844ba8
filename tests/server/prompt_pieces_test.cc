#include "server/prompt_pieces.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/output_size.h"

namespace parallax::server {
namespace {

std::shared_ptr<const Logprobs> LogprobsOf(int32_t num_tokens) {
  auto logprobs = std::make_shared<Logprobs>();
  for (int32_t i = 0; i < num_tokens; ++i) {
    logprobs->push_back({.chosen = {.token = i, .logprob = i == 0 ? NAN : -1.0f},
                         .top = std::vector<TokenLogprob>(20, {.token = 1, .logprob = -2.0f})});
  }
  return logprobs;
}

// The prompt's tokens are 0, 1, ... and its text is of three-byte characters, one a token.
std::shared_ptr<const Echo> EchoOf(int32_t num_tokens, bool with_logprobs) {
  auto echo = std::make_shared<Echo>();
  for (int32_t i = 0; i < num_tokens; ++i) {
    echo->text += "\xE2\x82\xAC";
    echo->token_ids.push_back(i);
  }
  if (with_logprobs) echo->logprobs = LogprobsOf(num_tokens);
  return echo;
}

size_t BytesOf(const PromptPiece& piece) {
  size_t bytes = piece.text.size() + piece.token_ids.size() * kTokenIdBytes;
  for (const PositionLogprobs& position : piece.logprobs) bytes += LogprobsBytes(position, nullptr);
  return bytes;
}

TEST(PromptPiecesTest, AreNoneIfNothingWasAskedFor) {
  EXPECT_TRUE(PromptPieces().empty());
  EXPECT_TRUE(PromptPieces(RequestStart(), 3, nullptr).empty());
}

TEST(PromptPiecesTest, LogprobsComeFirstThenTheEchoOfEachChoice) {
  constexpr int32_t kTokens = 5000;
  const std::shared_ptr<const Echo> echo = EchoOf(kTokens, /*with_logprobs=*/true);
  PromptPieces pieces({.prompt_logprobs = echo->logprobs, .echo = echo}, 2, nullptr);
  int count = 0;
  const auto next = [&] {
    EXPECT_FALSE(pieces.empty());
    const PromptPiece piece = pieces.Next();
    EXPECT_LE(BytesOf(piece),
              kMaxChunkBytes + LogprobsBytes(echo->logprobs->front(), nullptr) + kTokenIdBytes);
    ++count;
    return piece;
  };
  for (int32_t position = 0; position < kTokens;) {
    const PromptPiece piece = next();
    ASSERT_FALSE(piece.choice.has_value());
    for (const auto& logprobs : piece.logprobs) ASSERT_EQ(logprobs.chosen.token, position++);
  }
  for (const int32_t choice : {0, 1}) {
    std::string text;
    for (int32_t position = 0; position < kTokens;) {
      const PromptPiece piece = next();
      ASSERT_EQ(piece.choice, choice);
      ASSERT_EQ(piece.logprobs.size(), piece.token_ids.size());
      ASSERT_EQ(piece.text.size() % 3, 0u) << "whole characters";
      text += piece.text;
      for (const int32_t id : piece.token_ids) ASSERT_EQ(id, position++);
    }
    EXPECT_EQ(text, echo->text);
  }
  EXPECT_TRUE(pieces.empty());
  EXPECT_GT(count, 9);
}

TEST(PromptPiecesTest, ATextLongerThanAPieceIsCutBetweenCharacters) {
  const std::shared_ptr<const Echo> echo = EchoOf(300'000, /*with_logprobs=*/false);
  PromptPieces pieces({.prompt_logprobs = nullptr, .echo = echo}, 1, nullptr);
  std::string text;
  std::vector<int32_t> ids;
  while (!pieces.empty()) {
    const PromptPiece piece = pieces.Next();
    EXPECT_LE(BytesOf(piece), kMaxChunkBytes + kTokenIdBytes);
    EXPECT_EQ(piece.text.size() % 3, 0u);
    EXPECT_TRUE(piece.logprobs.empty());
    text += piece.text;
    ids.insert(ids.end(), piece.token_ids.begin(), piece.token_ids.end());
  }
  EXPECT_EQ(text, echo->text);
  EXPECT_EQ(ids, echo->token_ids);
}

TEST(PromptPiecesTest, HoldOnToNothingOnceTheyAreThrownAway) {
  std::weak_ptr<const Echo> held;
  PromptPieces pieces;
  {
    const std::shared_ptr<const Echo> echo = EchoOf(3, /*with_logprobs=*/true);
    held = echo;
    pieces = PromptPieces({.prompt_logprobs = nullptr, .echo = echo}, 1, nullptr);
  }
  const PromptPiece piece = pieces.Next();
  EXPECT_TRUE(pieces.empty());
  EXPECT_EQ(piece.token_ids.back(), 2) << "still there";
  pieces = PromptPieces();
  EXPECT_TRUE(held.expired());
}

}  // namespace
}  // namespace parallax::server
