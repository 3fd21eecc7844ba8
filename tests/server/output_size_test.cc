#include "server/output_size.h"

#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "parallax/v1/inference.pb.h"
#include "server/response_builder.h"
#include "tests/engine/word_tokenizer.h"

namespace parallax::server {
namespace {

constexpr int32_t kWords = 200;

// Tokens of 1 to 200 bytes.
WordTokenizer LongWords() {
  std::vector<std::string> words;
  for (size_t i = 1; i <= kWords; ++i) words.emplace_back(i, 'w');
  return WordTokenizer(words);
}

OutputDelta RandomDelta(int32_t largest_id, int top, std::mt19937* random) {
  OutputDelta delta;
  std::uniform_int_distribution<int32_t> ids(0, largest_id);
  delta.text = std::string((*random)() % 2000, 't');
  for (unsigned i = (*random)() % 300; i > 0; --i) {
    delta.token_ids.push_back(ids(*random));
    PositionLogprobs& position = delta.logprobs.emplace_back();
    position.chosen = {.token = delta.token_ids.back(), .logprob = -12.5f};
    for (int t = 0; t < top; ++t) position.top.push_back({.token = ids(*random), .logprob = -1.5f});
  }
  return delta;
}

void ExpectBound(const OutputDelta& delta, const Tokenizer* tokenizer) {
  constexpr size_t kEnvelope = 32;  // index, tags and lengths of the whole message
  v1::GenerateChunk chunk;
  FillChunk(delta, tokenizer, &chunk);
  EXPECT_LE(chunk.ByteSizeLong(), DeltaBytes(delta, tokenizer) + kEnvelope);
  size_t held = delta.text.size() + delta.token_ids.size() * sizeof(int32_t);
  for (const PositionLogprobs& position : delta.logprobs) {
    held += sizeof(position) + position.top.size() * sizeof(TokenLogprob);
  }
  EXPECT_LE(held, DeltaBytes(delta, tokenizer));
}

TEST(OutputSizeTest, IsNeverLessThanTheMessageOrTheMemory) {
  const WordTokenizer tokenizer = LongWords();
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const int top = round % 21;
    ExpectBound(RandomDelta(kWords, top, &random), &tokenizer);
    ExpectBound(RandomDelta(std::numeric_limits<int32_t>::max(), top, &random), nullptr);
  }
}

TEST(OutputSizeTest, IsNotFarMoreThanTheMessage) {
  const WordTokenizer tokenizer = LongWords();
  std::mt19937 random(1);
  const OutputDelta delta = RandomDelta(kWords, 20, &random);
  v1::GenerateChunk chunk;
  FillChunk(delta, &tokenizer, &chunk);
  EXPECT_LT(DeltaBytes(delta, &tokenizer), chunk.ByteSizeLong() * 3 / 2);
}

TEST(OutputSizeTest, WhatAPromptTakesAtLeastIsNoMoreThanItTakes) {
  constexpr size_t kTokens = 50;
  for (const int top : {-1, 0, 5, 20}) {
    for (const int echo : {0, 1, 2}) {  // not, without log-probabilities, with
      SamplingParams sampling;
      sampling.n = 3;
      sampling.echo = echo > 0;
      if (echo > 1) sampling.logprobs = 7;
      RequestStart start;
      Logprobs positions(kTokens);
      if (top >= 0) {
        sampling.prompt_logprobs = top;
        for (PositionLogprobs& position : positions) position.top.resize(static_cast<size_t>(top));
        start.prompt_logprobs = std::make_shared<const Logprobs>(positions);
      }
      if (sampling.echo) {
        start.echo = std::make_shared<const Echo>(
            Echo{"text", std::vector<int32_t>(kTokens, 5),
                 echo > 1 ? std::make_shared<const Logprobs>(positions) : nullptr});
      }
      const size_t least = LeastPromptBytes(kTokens, sampling);
      const size_t bytes = PromptBytes(start, 3, nullptr);
      EXPECT_LE(least, bytes);
      EXPECT_GE(least * 10, bytes);
    }
  }
}

}  // namespace
}  // namespace parallax::server
