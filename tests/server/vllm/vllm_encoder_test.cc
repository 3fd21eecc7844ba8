#include "server/vllm/vllm_encoder.h"

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/output_size.h"

namespace parallax::server {
namespace {

namespace wire = ::vllm::grpc::engine;
using ::testing::ElementsAre;

Request TwoChoices() {
  Request request;
  request.prompt = {1, 2, 3};
  request.sampling.n = 2;
  return request;
}

OutputChunk Chunk(int choice, const std::vector<int32_t>& ids, bool finish = false) {
  OutputChunk chunk;
  chunk.delta.choice = choice;
  chunk.delta.token_ids = ids;
  for (const int32_t id : ids) {
    chunk.delta.logprobs.push_back(
        {.chosen = {.token = id, .logprob = -0.5f}, .top = {{.token = id + 1, .logprob = -0.25f}}});
  }
  if (finish) {
    chunk.delta.finish = ChoiceFinish{.reason = FinishReason::kStop,
                                      .matched_stop_string = {},
                                      .matched_stop_token = 9,
                                      .prompt_tokens = 3,
                                      .cached_tokens = 2,
                                      .completion_tokens = 3,
                                      .timings = {}};
  }
  return chunk;
}

OutputChunk Ended(int choice, FinishReason reason) {
  OutputChunk chunk;
  chunk.delta.choice = choice;
  chunk.delta.finish.emplace().reason = reason;
  return chunk;
}

RequestStart Started(std::shared_ptr<const Logprobs> prompt_logprobs) {
  return {.prompt_tokens = 3,
          .cached_tokens = 2,
          .prompt_logprobs = std::move(prompt_logprobs),
          .echo = nullptr};
}

// Log-probabilities of a prompt of `num_tokens`.
std::shared_ptr<const Logprobs> PromptOf(int num_tokens) {
  auto logprobs = std::make_shared<Logprobs>();
  for (int i = 0; i < num_tokens; ++i) {
    logprobs->push_back({.chosen = {.token = i, .logprob = i == 0 ? NAN : -1.0f},
                         .top = std::vector<TokenLogprob>(20, {.token = 1, .logprob = -2.0f})});
  }
  return logprobs;
}

std::vector<wire::GenerateResponse> Encode(VllmEncoder* encoder, OutputChunk chunk) {
  EXPECT_TRUE(encoder->Add(std::move(chunk)).ok());
  std::vector<wire::GenerateResponse> messages;
  wire::GenerateResponse message;
  while (encoder->Next(&message)) messages.push_back(message);
  EXPECT_TRUE(encoder->empty());
  return messages;
}

TEST(VllmEncoderTest, AStreamIsChunksAndThenOneCompleteAChoice) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  OutputChunk first = Chunk(1, {5, 6});
  first.start = Started(nullptr);
  auto messages = Encode(&encoder, std::move(first));
  ASSERT_EQ(messages.size(), 1u);
  const wire::GenerateStreamChunk& chunk = messages[0].chunk();
  EXPECT_EQ(chunk.index(), 1u);
  EXPECT_THAT(chunk.token_ids(), ElementsAre(5, 6));
  EXPECT_EQ(chunk.prompt_tokens(), 3u);
  EXPECT_EQ(chunk.cached_tokens(), 2u);
  EXPECT_EQ(chunk.completion_tokens(), 2u);
  EXPECT_THAT(chunk.output_logprobs().token_ids(), ElementsAre(5, 6));
  EXPECT_THAT(chunk.output_logprobs().top_logprobs(0).token_ids(), ElementsAre(6));

  messages = Encode(&encoder, Chunk(1, {7}, /*finish=*/true));
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].chunk().completion_tokens(), 3u) << "a running total";
  const wire::GenerateComplete& complete = messages[1].complete();
  EXPECT_EQ(complete.index(), 1u);
  EXPECT_THAT(complete.output_ids(), ElementsAre(5, 6, 7)) << "those of the chunks too";
  EXPECT_EQ(complete.finish_reason(), "stop");
  EXPECT_EQ(complete.matched_token_id(), 9u);
  EXPECT_EQ(complete.cached_tokens(), 2u);
  EXPECT_FALSE(complete.has_output_logprobs()) << "the chunks had them";
}

TEST(VllmEncoderTest, WithoutStreamEverythingIsInTheCompletes) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/false, 1 << 20);
  OutputChunk first = Chunk(0, {5, 6});
  first.start = Started(PromptOf(1));
  EXPECT_TRUE(Encode(&encoder, std::move(first)).empty());
  const auto messages = Encode(&encoder, Chunk(0, {7}, /*finish=*/true));
  ASSERT_EQ(messages.size(), 1u);
  const wire::GenerateComplete& complete = messages[0].complete();
  EXPECT_THAT(complete.output_ids(), ElementsAre(5, 6, 7));
  EXPECT_THAT(complete.output_logprobs().token_ids(), ElementsAre(5, 6, 7));
  ASSERT_EQ(complete.input_logprobs().token_logprobs_size(), 1);
  EXPECT_FALSE(complete.input_logprobs().token_logprobs(0).has_value());
}

TEST(VllmEncoderTest, AStreamTellsOfThePromptFirstInPieces) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  OutputChunk first = Chunk(1, {5});
  first.start = Started(PromptOf(20'000));
  const auto messages = Encode(&encoder, std::move(first));
  ASSERT_GT(messages.size(), 10u);
  EXPECT_THAT(messages.back().chunk().token_ids(), ElementsAre(5));
  int next = 0;
  for (const wire::GenerateResponse& message : messages) {
    EXPECT_LT(message.ByteSizeLong(), 1u << 20);
    EXPECT_EQ(message.chunk().cached_tokens(), 2u);
    const wire::InputLogProbs& input = message.chunk().input_logprobs();
    for (const uint32_t id : input.token_ids()) EXPECT_EQ(id, static_cast<uint32_t>(next++));
    EXPECT_EQ(input.top_logprobs_size(), input.token_ids_size());
  }
  EXPECT_EQ(next, 20'000);
}

TEST(VllmEncoderTest, AReplyThatGrowsTooLargeIsAnError) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/false, 100);
  EXPECT_EQ(encoder.Add(Chunk(0, std::vector<int32_t>(50, 5))).code(),
            absl::StatusCode::kResourceExhausted);
}

// Each of the two completes has a copy.
TEST(VllmEncoderTest, ThePromptCountsOnceAChoice) {
  const size_t bytes = PromptBytes(Started(PromptOf(100)), 1, nullptr);
  OutputChunk chunk = Chunk(0, {});
  chunk.start = Started(PromptOf(100));
  VllmEncoder tight(TwoChoices(), /*stream=*/false, 2 * bytes - 1);
  EXPECT_EQ(tight.Add(chunk).code(), absl::StatusCode::kResourceExhausted);
  VllmEncoder wide(TwoChoices(), /*stream=*/false, 2 * bytes);
  EXPECT_TRUE(wide.Add(chunk).ok());
}

TEST(VllmEncoderTest, AChoiceThatAnErrorEndedHasNoComplete) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  EXPECT_TRUE(Encode(&encoder, Ended(0, FinishReason::kError)).empty());
  const auto messages = Encode(&encoder, Ended(1, FinishReason::kCancelled));
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].complete().finish_reason(), "abort");
}

TEST(VllmEncoderTest, TextThatWasHeldBackIsNoMessage) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  OutputChunk chunk;
  chunk.delta.text = "held back by a stop string that did not come";
  EXPECT_TRUE(Encode(&encoder, chunk).empty());
}

// A stream's cost: what is written one after the other reuses the memory of the first.
TEST(VllmEncoderTest, ChunksReuseTheMessagesMemory) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  wire::GenerateResponse message;
  ASSERT_TRUE(encoder.Add(Chunk(0, {5, 6})).ok());
  ASSERT_TRUE(encoder.Next(&message));
  const wire::GenerateStreamChunk* const chunk = &message.chunk();
  const uint32_t* const ids = chunk->token_ids().data();
  ASSERT_TRUE(encoder.Add(Chunk(1, {7})).ok());
  ASSERT_TRUE(encoder.Next(&message));
  EXPECT_EQ(&message.chunk(), chunk);
  EXPECT_EQ(message.chunk().token_ids().data(), ids);
  EXPECT_THAT(message.chunk().token_ids(), ElementsAre(7));
  EXPECT_EQ(message.chunk().index(), 1u);
}

}  // namespace
}  // namespace parallax::server
