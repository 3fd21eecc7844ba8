// What a client sees of its tokens: text, stops, log-probabilities, echo, choices, counts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/engine/engine_fixture.h"

namespace parallax {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::Optional;

class EngineOutputTest : public EngineFixture {
 protected:
  // Word ids from kFirstToken up do not clash with the fake's hashed tokens: every test that
  // looks at text scripts all of it.
  EngineOutputTest() { words = {"Hello", " world", "!", "sto", "p", "\xE2\x82", "\xAC", " "}; }
  enum Word : int32_t { kHello = 2, kWorld, kBang, kSto, kP, kEuroA, kEuroB, kSpace };

  Request Scripted(std::vector<int32_t> script, int32_t max_tokens) {
    Request request = MakeRequest(max_tokens, {WordTokenizer::kBos, kHello});
    model->Script(request.sampling.seed, std::move(script));
    return request;
  }
};

TEST_F(EngineOutputTest, StreamsTextUpToMaxTokens) {
  Start();
  const Recorded got = Run(Scripted({kHello, kWorld, kBang}, 3));
  EXPECT_TRUE(got.done->ok());
  const RecordedChoice& choice = got.choices[0];
  EXPECT_EQ(choice.text, "Hello world!");
  EXPECT_THAT(choice.token_ids, ElementsAre(kHello, kWorld, kBang));
  EXPECT_EQ(choice.finish->reason, FinishReason::kLength);
  EXPECT_EQ(choice.finish->prompt_tokens, 2);
  EXPECT_EQ(choice.finish->completion_tokens, 3);
  EXPECT_EQ(choice.deltas, 3);
  EXPECT_TRUE(choice.logprobs.empty());
  EXPECT_EQ(got.start->prompt_tokens, 2);
}

TEST_F(EngineOutputTest, EosEndsWithoutTextButCounts) {
  Start();
  const Recorded got = Run(Scripted({kHello, WordTokenizer::kEos, kWorld}, 8));
  EXPECT_EQ(got.choices[0].text, "Hello");
  EXPECT_THAT(got.choices[0].token_ids, ElementsAre(kHello, WordTokenizer::kEos));
  EXPECT_EQ(got.choices[0].finish->reason, FinishReason::kStop);
  EXPECT_THAT(got.choices[0].finish->matched_stop_token, Optional(WordTokenizer::kEos));
  EXPECT_EQ(got.choices[0].finish->completion_tokens, 2);
}

TEST_F(EngineOutputTest, EosOfTheModelFolderEndsToo) {
  options.eos_token_ids = {kBang};
  Start();
  EXPECT_EQ(Run(Scripted({kHello, kBang, kWorld}, 8)).choices[0].text, "Hello");
}

TEST_F(EngineOutputTest, IgnoreEosGoesOn) {
  Start();
  Request request = Scripted({kHello, WordTokenizer::kEos, kBang}, 3);
  request.sampling.ignore_eos = true;
  EXPECT_EQ(Run(std::move(request)).choices[0].text, "Hello!");
}

TEST_F(EngineOutputTest, SpecialTokensGiveTextOnRequest) {
  Start();
  Request request = Scripted({kHello, WordTokenizer::kEos, kBang}, 3);
  request.sampling.ignore_eos = true;
  request.sampling.skip_special_tokens = false;
  EXPECT_EQ(Run(std::move(request)).choices[0].text, "Hello</s>!");
}

TEST_F(EngineOutputTest, StopTokenIsKeptInTheTextOnRequest) {
  Start();
  for (const bool include : {false, true}) {
    Request request = Scripted({kHello, kBang, kWorld}, 8);
    request.sampling.stop_token_ids = {kBang};
    request.sampling.include_stop = include;
    const Recorded got = Run(std::move(request));
    EXPECT_EQ(got.choices[0].text, include ? "Hello!" : "Hello");
    EXPECT_THAT(got.choices[0].finish->matched_stop_token, Optional(+kBang));
  }
}

TEST_F(EngineOutputTest, HeldBackTextStandsBeforeAnIncludedStopToken) {
  Start();
  Request request = Scripted({kHello, kSto, kBang}, 8);
  request.sampling.stop_strings = {"stop"};
  request.sampling.stop_token_ids = {kBang};
  request.sampling.include_stop = true;
  EXPECT_EQ(Run(std::move(request)).choices[0].text, "Hellosto!");
}

TEST_F(EngineOutputTest, StopStringAcrossTokens) {
  Start();
  for (const bool include : {false, true}) {
    Request request = Scripted({kHello, kSto, kP, kWorld}, 8);
    request.sampling.stop_strings = {"xyz", "stop"};
    request.sampling.include_stop = include;
    const Recorded got = Run(std::move(request));
    EXPECT_EQ(got.choices[0].text, include ? "Hellostop" : "Hello");
    EXPECT_EQ(got.choices[0].finish->matched_stop_string, "stop");
    EXPECT_EQ(got.choices[0].finish->reason, FinishReason::kStop);
    EXPECT_EQ(got.choices[0].finish->completion_tokens, 3);
  }
}

TEST_F(EngineOutputTest, TextHeldForAStopStringIsFlushedAtTheEnd) {
  Start();
  Request request = Scripted({kHello, kSto}, 2);
  request.sampling.stop_strings = {"stop"};
  EXPECT_EQ(Run(std::move(request)).choices[0].text, "Hellosto");
}

TEST_F(EngineOutputTest, StopStringInThePromptIsNotAStop) {
  Start();
  Request request = Scripted({kP, kWorld}, 2);
  request.prompt = {kSto};
  request.sampling.stop_strings = {"stop", "Hello"};
  request.sampling.echo = true;
  EXPECT_EQ(Run(std::move(request)).choices[0].text, "stop world");
}

TEST_F(EngineOutputTest, NothingStopsBeforeMinTokens) {
  Start();
  Request request = Scripted({kSto, kP, kBang, WordTokenizer::kEos, kWorld, kSto, kP, kHello}, 16);
  request.sampling.stop_strings = {"stop"};
  request.sampling.stop_token_ids = {kBang};
  request.sampling.min_tokens = 4;
  const Recorded got = Run(std::move(request));
  EXPECT_EQ(got.choices[0].text, "stop! world");
  EXPECT_EQ(got.choices[0].finish->completion_tokens, 7);
}

TEST_F(EngineOutputTest, CharactersAreNeverSplit) {
  Start();
  const Recorded whole = Run(Scripted({kEuroA, kEuroB, kBang}, 3));
  EXPECT_EQ(whole.choices[0].text, "\xE2\x82\xAC!");
  const Recorded cut = Run(Scripted({kHello, kEuroA}, 2));
  EXPECT_EQ(cut.choices[0].text, "Hello\xEF\xBF\xBD");
}

TEST_F(EngineOutputTest, CharacterBegunByThePromptIsCompleted) {
  Start();
  for (const bool echo : {false, true}) {
    Request request = Scripted({kEuroB, kBang}, 2);
    request.prompt = {kHello, kEuroA};
    request.sampling.echo = echo;
    EXPECT_EQ(Run(std::move(request)).choices[0].text,
              echo ? "Hello\xE2\x82\xAC!" : "\xE2\x82\xAC!");
  }
}

TEST_F(EngineOutputTest, LeadingSpaceOfAnEmptyTextPromptIsDropped) {
  tokenizer = std::make_unique<WordTokenizer>(words, LeadingSpace::kDropOnce);
  words.clear();
  Start();
  for (const bool empty_text : {false, true}) {
    Request request = Scripted({kWorld}, 1);
    request.prompt_is_empty_text = empty_text;
    EXPECT_EQ(Run(std::move(request)).choices[0].text, empty_text ? "world" : " world");
  }
}

TEST_F(EngineOutputTest, LogprobsAlignWithTokens) {
  Start();
  Request request = Scripted({kHello, kWorld, kBang}, 3);
  request.sampling.logprobs = 2;
  const RecordedChoice choice = Run(std::move(request)).choices[0];
  ASSERT_EQ(choice.logprobs.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const int32_t token = choice.token_ids[i];
    EXPECT_EQ(choice.logprobs[i].chosen.token, token);
    EXPECT_EQ(choice.logprobs[i].chosen.logprob, FakeModel::LogprobOf(token));
    ASSERT_EQ(choice.logprobs[i].top.size(), 2u);
    EXPECT_EQ(choice.logprobs[i].top[1].token, token + 1);
    EXPECT_EQ(choice.logprobs[i].top[1].logprob, FakeModel::LogprobOf(token + 1));
  }
}

TEST_F(EngineOutputTest, PromptLogprobsCoverEveryPromptTokenOfAChunkedPrefill) {
  options.max_prefill_chunk = 10;
  Start();
  Request request = MakeRequest(2, {});
  for (int32_t i = 0; i < 95; ++i) request.prompt.push_back(i % 7 + 2);
  const std::vector<int32_t> prompt = request.prompt;
  request.sampling.prompt_logprobs = 1;
  request.sampling.n = 2;
  const Recorded got = Run(std::move(request));
  ASSERT_EQ(got.start->prompt_logprobs->size(), prompt.size());
  EXPECT_TRUE(std::isnan(got.start->prompt_logprobs->at(0).chosen.logprob));
  for (size_t i = 0; i < prompt.size(); ++i) {
    const PositionLogprobs& position = got.start->prompt_logprobs->at(i);
    EXPECT_EQ(position.chosen.token, prompt[i]);
    if (i == 0) continue;
    EXPECT_EQ(position.chosen.logprob, FakeModel::LogprobOf(prompt[i]));
    ASSERT_EQ(position.top.size(), 1u);
    EXPECT_EQ(position.top[0].token, prompt[i]);
  }
}

TEST_F(EngineOutputTest, EchoPutsThePromptBeforeEveryChoice) {
  Start();
  Request request = Scripted({kBang}, 1);
  request.prompt = {WordTokenizer::kBos, kHello, kWorld};
  request.sampling.n = 2;
  request.sampling.echo = true;
  request.sampling.logprobs = 0;
  const Recorded got = Run(std::move(request));
  EXPECT_EQ(got.choices[0].text, "Hello world!");
  EXPECT_TRUE(got.choices[1].text.starts_with("Hello world"));
  for (const RecordedChoice& choice : got.choices) {
    ASSERT_EQ(choice.token_ids.size(), 4u);
    EXPECT_EQ(choice.token_ids[0], WordTokenizer::kBos);
    EXPECT_EQ(choice.finish->completion_tokens, 1);
    ASSERT_EQ(choice.logprobs.size(), 4u);
    EXPECT_TRUE(std::isnan(choice.logprobs[2].chosen.logprob));  // not scored: not asked for
    EXPECT_EQ(choice.logprobs[2].chosen.token, kWorld);
    EXPECT_FALSE(std::isnan(choice.logprobs[3].chosen.logprob));
  }
}

TEST_F(EngineOutputTest, EchoCarriesThePromptsLogprobsIfBothAreAskedFor) {
  Start();
  Request request = Scripted({kBang}, 1);
  request.sampling.echo = true;
  request.sampling.logprobs = 0;
  request.sampling.prompt_logprobs = 0;
  const Recorded got = Run(std::move(request));
  EXPECT_EQ(got.choices[0].logprobs[1].chosen.logprob, FakeModel::LogprobOf(kHello));
  EXPECT_EQ(got.start->prompt_logprobs->size(), 2u);
}

// It can be a thousand times the size of a token's output: a copy for each choice and for each
// use of the log-probabilities would be felt.
TEST_F(EngineOutputTest, WhatIsToldOfThePromptIsThereOnce) {
  Start();
  Request request = Scripted({kBang}, 1);
  request.sampling.n = 8;
  request.sampling.echo = true;
  request.sampling.logprobs = 3;
  request.sampling.prompt_logprobs = 3;
  const Recorded got = Run(std::move(request));
  EXPECT_EQ(got.start->echo->logprobs, got.start->prompt_logprobs);
  for (const RecordedChoice& choice : got.choices) EXPECT_EQ(choice.deltas, 1);
}

TEST_F(EngineOutputTest, ChoicesAreTheirOwn) {
  Start();
  Request request = MakeRequest(5);
  const uint64_t seed = request.sampling.seed;
  request.sampling.n = 4;
  const Recorded got = Run(std::move(request));
  for (int32_t i = 0; i < 4; ++i) {
    EXPECT_THAT(got.choices[i].token_ids, ElementsAreArray(Expected(seed, i, 5))) << i;
    EXPECT_EQ(got.choices[i].finish->completion_tokens, 5);
  }
  const FinishedRequest finished = observer.Counts().last_finished;
  EXPECT_EQ(finished.num_choices, 4);
  EXPECT_EQ(finished.completion_tokens, 20);
  EXPECT_EQ(finished.reason, FinishReason::kLength);
  EXPECT_TRUE(finished.first_token_seen);
  EXPECT_EQ(observer.Counts().inter_token_gaps, 16);
  EXPECT_EQ(observer.Counts().started, 1) << "a request, not a choice";
  EXPECT_EQ(observer.Counts().last_started.queue, finished.timings.queue);
  EXPECT_EQ(observer.Counts().last_started.prefill, finished.timings.prefill);
}

TEST_F(EngineOutputTest, ModelWithoutTokenizerServesIdsOnly) {
  words.clear();
  Start();
  Request request = MakeRequest(3);
  request.sampling.echo = true;
  const Recorded got = Run(std::move(request));
  EXPECT_EQ(got.choices[0].token_ids.size(), 6u);
  EXPECT_EQ(got.choices[0].text, "");
}

TEST_F(EngineOutputTest, TokensSampledPastAStopAreDropped) {
  limits.max_steps_in_flight = 2;
  Start();
  const Recorded got = Run(Scripted({kHello, WordTokenizer::kEos, kWorld, kBang}, 16));
  EXPECT_THAT(got.choices[0].token_ids, ElementsAre(kHello, WordTokenizer::kEos));
  engine.reset();
  EXPECT_EQ(observer.Counts().tokens_generated, 2);
}

TEST_F(EngineOutputTest, TokensPastAStopAreDroppedWhileAnotherChoiceGoesOn) {
  limits.max_steps_in_flight = 2;
  Start();
  Request request = Scripted({kHello, WordTokenizer::kEos, kWorld, kBang}, 16);
  request.sampling.n = 2;
  const Recorded got = Run(std::move(request));
  EXPECT_THAT(got.choices[0].token_ids, ElementsAre(kHello, WordTokenizer::kEos));
  EXPECT_EQ(got.choices[0].finish->reason, FinishReason::kStop);
  EXPECT_EQ(got.choices[1].token_ids.size(), 16u);
}

TEST_F(EngineOutputTest, SecondRequestFindsThePromptCached) {
  Start();
  std::vector<int32_t> prompt(200, kHello);
  EXPECT_EQ(Run(MakeRequest(2, prompt)).choices[0].finish->cached_tokens, 0);
  const Recorded second = Run(MakeRequest(2, prompt));
  EXPECT_EQ(second.choices[0].finish->cached_tokens, 192);
  EXPECT_EQ(second.start->cached_tokens, 192);
  EXPECT_EQ(engine->Stats().prefix_cache_hit_tokens, 192u);
  EXPECT_GT(engine->FlushPrefixCache(), 0);
  EXPECT_EQ(Run(MakeRequest(2, prompt)).choices[0].finish->cached_tokens, 0);
}

}  // namespace
}  // namespace parallax
