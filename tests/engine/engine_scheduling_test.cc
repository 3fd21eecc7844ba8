// What other requests may change for a request: when its tokens come, never which.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "tests/engine/engine_fixture.h"

namespace parallax {
namespace {

using ::testing::ElementsAreArray;

class EngineSchedulingTest : public EngineFixture, public ::testing::WithParamInterface<int32_t> {
 protected:
  EngineSchedulingTest() { limits.max_steps_in_flight = GetParam(); }
};

TEST_P(EngineSchedulingTest, TokensDoNotDependOnBatchMates) {
  Start();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<std::pair<uint64_t, int32_t>> wanted;  // seed, tokens
  for (int i = 0; i < 64; ++i) {
    Request request = MakeRequest(1 + i % 17, std::vector<int32_t>(1 + 7 * i % 150, 30 + i % 3));
    request.sampling.n = 1 + i % 3;
    wanted.emplace_back(request.sampling.seed, request.sampling.max_tokens);
    sinks.push_back(Submit(std::move(request)));
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    const Recorded got = sinks[i]->Await();
    EXPECT_EQ(got.violation, "");
    const auto [seed, count] = wanted[i];
    for (size_t c = 0; c < got.choices.size(); ++c) {
      EXPECT_THAT(got.choices[c].token_ids,
                  ElementsAreArray(Expected(seed, static_cast<int32_t>(c), count)));
    }
  }
}

TEST_P(EngineSchedulingTest, PreemptionKeepsTheTokens) {
  limits.num_pages = 9;  // three prompts of two pages grow to five each
  Start();
  model->Hold();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 3; ++i) {
    sinks.push_back(Submit(MakeRequest(200, std::vector<int32_t>(100, 20 + i))));
  }
  model->Release();
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_THAT(sinks[i]->Await().choices[0].token_ids, ElementsAreArray(Expected(i + 1, 0, 200)));
  }
  EXPECT_GT(engine->Stats().preemptions, 0u);
}

// The bound of engine.h: a running sequence is in every step, and a step has at most
// max_num_batched_tokens rows.
TEST_P(EngineSchedulingTest, LongPromptsDelayDecodeByNoMoreThanAStep) {
  Start();
  model->Hold();
  Request decoding = MakeRequest(60);
  const uint64_t seed = decoding.sampling.seed;
  const auto sink = Submit(std::move(decoding));
  model->AwaitHeld();
  model->Allow(4);
  sink->AwaitTokens(4);
  std::vector<std::shared_ptr<RecordingSink>> others;
  for (int i = 0; i < 4; ++i) {
    others.push_back(Submit(MakeRequest(2, std::vector<int32_t>(1000, 40 + i))));
  }
  model->Release();
  sink->Await();
  for (const auto& other : others) other->Await();

  const std::vector<FakeModel::Step> steps = model->steps();
  size_t first = steps.size();
  size_t last = 0;
  int32_t sampled = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_LE(steps[i].rows, limits.max_num_batched_tokens);
    if (std::ranges::find(steps[i].sampled_seeds, seed) == steps[i].sampled_seeds.end()) continue;
    first = std::min(first, i);
    last = i;
    ++sampled;
  }
  EXPECT_EQ(sampled, 60);
  EXPECT_EQ(last - first + 1, 60u) << "a step went by without the running sequence";
}

TEST_P(EngineSchedulingTest, PriorityOvertakesTheQueue) {
  options.max_num_seqs = 1;
  Start();
  model->Hold();
  const auto running = Submit(MakeRequest(2));
  model->AwaitHeld();
  const auto ordinary = Submit(MakeRequest(50));
  Request urgent = MakeRequest(50);
  urgent.priority = -1;
  const auto sink = Submit(std::move(urgent));
  model->Release();
  const Recorded first = sink->Await();
  const Recorded second = ordinary->Await();
  EXPECT_LT(first.choices[0].finish->timings.queue, second.choices[0].finish->timings.queue);
}

TEST_P(EngineSchedulingTest, LatenciesCountFromTheArrivalAtTheServer) {
  Start();
  Request request = MakeRequest(2);
  request.arrival = absl::Now() - absl::Seconds(100);
  const Recorded late = Submit(std::move(request))->Await();
  EXPECT_GE(late.choices[0].finish->timings.queue, absl::Seconds(100));
  const Recorded prompt = Submit(MakeRequest(2))->Await();
  EXPECT_LT(prompt.choices[0].finish->timings.queue, absl::Seconds(100));
}

TEST_P(EngineSchedulingTest, HopelessRequestIsDroppedFromTheQueueAndNeverRun) {
  options.enable_prefix_cache = false;  // a prefix hit could save it
  options.max_num_seqs = 1;
  Start();
  // Full chunks of known duration: at least a millisecond each.
  model->Hold();
  const auto measured = Submit(MakeRequest(1, std::vector<int32_t>(10 * 64, 20)));
  for (int i = 0; i < 10; ++i) {
    model->AwaitHeld();
    absl::SleepFor(absl::Milliseconds(1));
    model->Allow(1);
  }
  EXPECT_TRUE(measured->Await().done->ok());

  const auto running = Submit(MakeRequest(4));
  model->AwaitHeld();
  // 31 chunks cannot pass in 25 ms; 25 ms do not pass while this test looks.
  Request hopeless = MakeRequest(1, std::vector<int32_t>(31 * 64, 30));
  const uint64_t seed = hopeless.sampling.seed;
  hopeless.deadline = absl::Now() + absl::Milliseconds(25);
  const auto sink = Submit(std::move(hopeless));
  model->Release();
  const Recorded got = sink->Await();
  EXPECT_EQ(got.done->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(running->Await().done->ok());
  int32_t rows = 0;
  for (const FakeModel::Step& step : model->steps()) rows += step.rows;
  EXPECT_LE(rows, 10 * 64 + 3 + 3) << "rows of the dropped prompt were run, seed " << seed;
}

// What the engine says of its steps adds up to no more than the time it had.
TEST_P(EngineSchedulingTest, StepsDoNotCountTimeTwice) {
  Start();
  const absl::Time began = absl::Now();
  EXPECT_TRUE(Run(MakeRequest(1000)).done->ok());
  EXPECT_GE(observer.Counts().steps, 1000);
  EXPECT_LE(observer.Counts().step_time, absl::Now() - began);
}

INSTANTIATE_TEST_SUITE_P(StepsInFlight, EngineSchedulingTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace parallax
