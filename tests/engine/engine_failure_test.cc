// What breaks, and for whom: NaN logits, a backend that fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/engine/engine_fixture.h"

namespace parallax {
namespace {

using ::testing::HasSubstr;

using EngineFailureTest = EngineFixture;

TEST_F(EngineFailureTest, NanLogitsEndThatRequestAlone) {
  Start();
  model->Hold();
  Request poisoned = MakeRequest(8);
  model->PoisonSample(poisoned.sampling.seed, 3);
  poisoned.sampling.n = 2;
  const std::string id = poisoned.id;
  const auto bad = Submit(std::move(poisoned));
  const auto good = Submit(MakeRequest(8));
  model->Release();
  const Recorded got = bad->Await();
  EXPECT_EQ(got.violation, "");
  EXPECT_EQ(got.done->code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(got.done->message()), HasSubstr(id));
  EXPECT_EQ(got.choices[0].token_ids.size(), 3u);
  EXPECT_EQ(got.choices[1].finish->reason, FinishReason::kError);
  EXPECT_TRUE(good->Await().done->ok());
  EXPECT_TRUE(engine->Stats().health.ok());
  EXPECT_EQ(engine->Stats().gauges.pages_used, 0);
}

TEST_F(EngineFailureTest, NanLogitsOfAPromptEndThatRequest) {
  Start();
  Request poisoned = MakeRequest(8);
  poisoned.sampling.prompt_logprobs = 0;
  model->PoisonPrompt(poisoned.sampling.seed);
  const Recorded got = Run(std::move(poisoned));
  EXPECT_EQ(got.done->code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(got.start.has_value());
}

TEST_F(EngineFailureTest, WhatNanWroteIsNotCached) {
  Start();
  const std::vector<int32_t> prompt(150, 20);
  Request poisoned = MakeRequest(8, prompt);
  model->PoisonSample(poisoned.sampling.seed, 0);
  EXPECT_EQ(Run(std::move(poisoned)).done->code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Run(MakeRequest(2, prompt)).choices[0].finish->cached_tokens, 0);
}

// The request's own doing: no failure of the server's, and nothing wrong with its pages.
TEST_F(EngineFailureTest, ARequestThatLeavesNoTokenEndsAsInvalid) {
  Start();
  const std::vector<int32_t> prompt(150, 20);
  Request banned = MakeRequest(8, prompt);
  model->BanSample(banned.sampling.seed, 2);
  const Recorded got = Run(std::move(banned));
  EXPECT_EQ(got.done->code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(got.choices[0].token_ids.size(), 2u);
  EXPECT_GT(Run(MakeRequest(2, prompt)).choices[0].finish->cached_tokens, 0);
}

// What the ops refuse is the requests' doing, not the backend's.
class RefusedStepTest : public EngineFailureTest, public ::testing::WithParamInterface<int32_t> {};

TEST_P(RefusedStepTest, EndsItsRequestsAlone) {
  limits.max_steps_in_flight = GetParam();
  Start();
  model->Hold();
  Request first = MakeRequest(8);
  Request refused = MakeRequest(100);
  refused.sampling.n = 3;
  refused.sampling.prompt_logprobs = 1;
  model->Refuse(refused.sampling.seed);
  const auto beside = Submit(std::move(first));
  const auto bad = Submit(std::move(refused));
  model->Release();
  for (const auto& sink : {beside, bad}) {
    const Recorded got = sink->Await();
    EXPECT_EQ(got.violation, "");
    EXPECT_EQ(got.choices[0].finish->reason, FinishReason::kError);
    EXPECT_EQ(got.done->code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(got.done->message()), HasSubstr("refused as told"));
  }
  EXPECT_EQ(Run(MakeRequest(8)).done->code(), absl::StatusCode::kOk);
  EXPECT_TRUE(engine->Stats().health.ok());
  EXPECT_TRUE(engine->AwaitDrained(absl::InfiniteFuture()));
  ExpectNothingHeld();
}

TEST_P(RefusedStepTest, KeepsNothingThatTheStepWrote) {
  limits.max_steps_in_flight = GetParam();
  Start();
  const std::vector<int32_t> prompt(150, 20);
  Request refused = MakeRequest(8, prompt);
  model->Refuse(refused.sampling.seed);
  EXPECT_EQ(Run(std::move(refused)).done->code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Run(MakeRequest(2, prompt)).choices[0].finish->cached_tokens, 0);
}

INSTANTIATE_TEST_SUITE_P(StepsInFlight, RefusedStepTest, ::testing::Values(1, 2));

class BackendFailureTest : public EngineFailureTest,
                           public ::testing::WithParamInterface<std::tuple<int32_t, bool>> {};

TEST_P(BackendFailureTest, EndsAllAndRefusesFromThenOn) {
  const auto [steps_in_flight, at_launch] = GetParam();
  limits.max_steps_in_flight = steps_in_flight;
  options.max_num_seqs = 2;
  Start();
  if (at_launch) {
    model->FailLaunch(4);
  } else {
    model->FailCollect(4);
  }
  model->Hold();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 5; ++i) sinks.push_back(Submit(MakeRequest(100)));
  model->Release();
  for (size_t i = 0; i < sinks.size(); ++i) {
    const Recorded got = sinks[i]->Await();
    EXPECT_EQ(got.violation, "");
    // Two ran; the others may try another replica.
    EXPECT_EQ(got.done->code(),
              i < 2 ? absl::StatusCode::kInternal : absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(got.done->message()), HasSubstr("failed as told"));
  }
  EXPECT_TRUE(engine->AwaitDrained(absl::InfiniteFuture()));
  const absl::Status refused = engine->Submit(MakeRequest(), std::make_shared<RecordingSink>());
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  const EngineStats stats = engine->Stats();
  EXPECT_FALSE(stats.health.ok());
  EXPECT_EQ(stats.gauges.pages_used, 0);
  EXPECT_EQ(engine->FlushPrefixCache(), stats.gauges.pages_cached);  // still answers
}

INSTANTIATE_TEST_SUITE_P(Steps, BackendFailureTest,
                         ::testing::Combine(::testing::Values(1, 2), ::testing::Bool()));

}  // namespace
}  // namespace parallax
