#include "server/vllm/vllm_encoder.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

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

v1::GenerateChunk Chunk(int index, const std::vector<int32_t>& ids, bool finish = false) {
  v1::GenerateChunk chunk;
  chunk.set_index(index);
  for (const int32_t id : ids) {
    chunk.add_token_ids(id);
    v1::TokenLogprobs& position = *chunk.add_logprobs();
    position.mutable_chosen()->set_token_id(id);
    position.mutable_chosen()->set_logprob(-0.5f);
    v1::TokenLogprob& top = *position.add_top();
    top.set_token_id(id + 1);
    top.set_logprob(-0.25f);
  }
  if (finish) {
    chunk.mutable_finish()->set_reason(v1::FINISH_REASON_STOP);
    chunk.mutable_finish()->set_stop_token_id(9);
    chunk.mutable_finish()->mutable_usage()->set_prompt_tokens(3);
    chunk.mutable_finish()->mutable_usage()->set_completion_tokens(3);
    chunk.mutable_finish()->mutable_usage()->set_cached_tokens(2);
  }
  return chunk;
}

std::vector<wire::GenerateResponse> Encode(VllmEncoder* encoder, v1::GenerateChunk chunk) {
  EXPECT_TRUE(encoder->Add(&chunk).ok());
  std::vector<wire::GenerateResponse> messages;
  wire::GenerateResponse message;
  while (encoder->Next(&message)) messages.push_back(message);
  EXPECT_TRUE(encoder->empty());
  return messages;
}

TEST(VllmEncoderTest, AStreamIsChunksAndThenOneCompleteAChoice) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  encoder.OnStart({.prompt_tokens = 3, .cached_tokens = 2, .prompt_logprobs = {}});
  auto messages = Encode(&encoder, Chunk(1, {5, 6}));
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
  EXPECT_THAT(complete.output_ids(), ElementsAre(5, 6, 7));
  EXPECT_EQ(complete.finish_reason(), "stop");
  EXPECT_EQ(complete.matched_token_id(), 9u);
  EXPECT_EQ(complete.cached_tokens(), 2u);
  EXPECT_FALSE(complete.has_output_logprobs()) << "the chunks had them";
}

TEST(VllmEncoderTest, WithoutStreamEverythingIsInTheCompletes) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/false, 1 << 20);
  v1::GenerateChunk prompt;
  prompt.add_prompt_logprobs()->mutable_chosen()->set_token_id(1);  // the first has none
  EXPECT_TRUE(Encode(&encoder, prompt).empty());
  EXPECT_TRUE(Encode(&encoder, Chunk(0, {5, 6})).empty());
  const auto messages = Encode(&encoder, Chunk(0, {7}, /*finish=*/true));
  ASSERT_EQ(messages.size(), 1u);
  const wire::GenerateComplete& complete = messages[0].complete();
  EXPECT_THAT(complete.output_ids(), ElementsAre(5, 6, 7));
  EXPECT_THAT(complete.output_logprobs().token_ids(), ElementsAre(5, 6, 7));
  ASSERT_EQ(complete.input_logprobs().token_logprobs_size(), 1);
  EXPECT_FALSE(complete.input_logprobs().token_logprobs(0).has_value());
}

TEST(VllmEncoderTest, AReplyThatGrowsTooLargeIsAnError) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/false, 100);
  v1::GenerateChunk chunk = Chunk(0, std::vector<int32_t>(50, 5));
  EXPECT_EQ(encoder.Add(&chunk).code(), absl::StatusCode::kResourceExhausted);
}

TEST(VllmEncoderTest, AChoiceThatAnErrorEndedHasNoComplete) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  v1::GenerateChunk chunk;
  chunk.mutable_finish()->set_reason(v1::FINISH_REASON_UNSPECIFIED);
  EXPECT_TRUE(Encode(&encoder, chunk).empty());
  chunk.set_index(1);
  chunk.mutable_finish()->set_reason(v1::FINISH_REASON_CANCELLED);
  const auto messages = Encode(&encoder, chunk);
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].complete().finish_reason(), "abort");
}

TEST(VllmEncoderTest, TextThatWasHeldBackIsNoMessage) {
  VllmEncoder encoder(TwoChoices(), /*stream=*/true, 1 << 20);
  v1::GenerateChunk chunk;
  chunk.set_text("held back by a stop string that did not come");
  EXPECT_TRUE(Encode(&encoder, chunk).empty());
}

}  // namespace
}  // namespace parallax::server
