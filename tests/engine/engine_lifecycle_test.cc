// How requests come and go: refusals, cancellation, deadlines, drain, shutdown, liveness.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <optional>

#include "absl/time/clock.h"
#include "engine/retry_after.h"
#include "tests/engine/engine_fixture.h"

namespace parallax {
namespace {

using ::testing::HasSubstr;

class EngineLifecycleTest : public EngineFixture {
 protected:
  absl::Status Refusal(Request request) {
    return engine->Submit(std::move(request), std::make_shared<RecordingSink>());
  }

  void ExpectEnded(const Recorded& got, absl::StatusCode code, FinishReason reason) {
    EXPECT_EQ(got.violation, "");
    EXPECT_EQ(got.done->code(), code) << *got.done;
    for (const RecordedChoice& choice : got.choices) EXPECT_EQ(choice.finish->reason, reason);
  }
};

TEST_F(EngineLifecycleTest, RefusesWhatIsInvalid) {
  Start();
  Request request = MakeRequest();
  request.sampling.top_p = 1.5f;
  const absl::Status status = Refusal(std::move(request));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "top_p: 1.5 is outside (0, 1]");
  EXPECT_EQ(observer.Counts().refused, 1);
  EXPECT_EQ(observer.Counts().submitted, 0);
}

TEST_F(EngineLifecycleTest, RefusesWhatCanNeverFit) {
  Start();
  Request too_long = MakeRequest(limits.max_context_tokens);
  EXPECT_EQ(Refusal(std::move(too_long)).code(), absl::StatusCode::kInvalidArgument);
  Request too_many = MakeRequest();
  too_many.sampling.n = limits.max_num_seqs + 1;
  EXPECT_EQ(Refusal(std::move(too_many)).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineLifecycleTest, RefusesOptionsBeyondTheBackend) {
  options.max_num_seqs = limits.max_num_seqs + 1;
  auto runner = std::make_unique<FakeModelRunner>(limits, model);
  const auto created = Engine::Create(options, std::move(runner), nullptr, nullptr);
  EXPECT_EQ(created.status().message(), "max_num_seqs: 9 is outside [0, 8], the backend's limit");
}

// Sanitizers need more address space than this test gives.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(EngineLifecycleTest, TooManyPagesForTheHostsMemoryAreAnError) {
  limits.num_pages = kMostPages;
  const auto create = [&] {
    const rlimit most{.rlim_cur = rlim_t{1} << 30, .rlim_max = rlim_t{1} << 30};
    setrlimit(RLIMIT_AS, &most);
    auto runner = std::make_unique<FakeModelRunner>(limits, model);
    const auto created = Engine::Create(options, std::move(runner), nullptr, nullptr);
    std::exit(created.status().code() == absl::StatusCode::kResourceExhausted ? 0 : 1);
  };
  EXPECT_EXIT(create(), ::testing::ExitedWithCode(0), "");
}
#endif

TEST_F(EngineLifecycleTest, LiveIdIsRefusedAndFreeAgainAfterwards) {
  Start();
  model->Hold();
  Request first = MakeRequest();
  Request twin = first;
  Request later = first;
  const auto sink = Submit(std::move(first));
  EXPECT_EQ(Refusal(std::move(twin)).code(), absl::StatusCode::kAlreadyExists);
  model->Release();
  EXPECT_TRUE(sink->Await().done->ok());
  EXPECT_TRUE(Run(std::move(later)).done->ok());
}

TEST_F(EngineLifecycleTest, FullQueueRefusesAtOnceWithAHint) {
  options.max_queued_requests = 3;
  options.max_num_seqs = 1;
  Start();
  model->Hold();
  std::vector<std::shared_ptr<RecordingSink>> sinks = {Submit(MakeRequest())};
  model->AwaitHeld();  // the first one left the queue
  for (int i = 0; i < 3; ++i) sinks.push_back(Submit(MakeRequest()));
  const absl::Status status = Refusal(MakeRequest());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  const std::optional<absl::Duration> hint = GetRetryAfter(status);
  ASSERT_TRUE(hint.has_value());
  EXPECT_GT(*hint, absl::ZeroDuration());
  EXPECT_EQ(engine->Stats().gauges.requests_waiting, 3);
  model->Release();
  for (const auto& sink : sinks) EXPECT_TRUE(sink->Await().done->ok());
}

TEST_F(EngineLifecycleTest, CancelledRequestLeavesTheQueue) {
  options.max_queued_requests = 1;
  options.max_num_seqs = 1;
  Start();
  model->Hold();
  const auto running = Submit(MakeRequest());
  model->AwaitHeld();
  Request queued = MakeRequest();
  const std::string id = queued.id;
  const auto sink = Submit(std::move(queued));
  engine->Cancel(id, *sink, absl::CancelledError("gone"));
  engine->Cancel(id, *sink, absl::InternalError("the first cancellation counts"));
  model->Release();
  const Recorded got = sink->Await();
  ExpectEnded(got, absl::StatusCode::kCancelled, FinishReason::kCancelled);
  EXPECT_FALSE(got.start.has_value());
  EXPECT_EQ(got.choices[0].finish->completion_tokens, 0);
  EXPECT_TRUE(running->Await().done->ok());
  EXPECT_TRUE(Run(MakeRequest()).done->ok());
}

TEST_F(EngineLifecycleTest, CancelOfARunningRequestFreesItsPages) {
  Start();
  model->Hold();
  Request request = MakeRequest(1000);
  request.sampling.n = 3;
  const std::string id = request.id;
  const auto sink = Submit(std::move(request));
  model->AwaitHeld();
  model->Allow(3);
  sink->AwaitTokens(3);
  engine->Cancel(id, *sink, absl::CancelledError("gone"));
  model->Release();
  const Recorded got = sink->Await();
  ExpectEnded(got, absl::StatusCode::kCancelled, FinishReason::kCancelled);
  EXPECT_LE(got.choices[0].token_ids.size(), 5u);
  EXPECT_TRUE(engine->AwaitDrained(absl::InfiniteFuture()));
  EXPECT_EQ(engine->Stats().gauges.pages_used, 0);
}

TEST_F(EngineLifecycleTest, AbortReachesTheCallersOwnRequestsOnly) {
  Start();
  model->Hold();
  Request request = MakeRequest(100);
  request.principal = "alice";
  const std::string id = request.id;
  const auto sink = Submit(std::move(request));
  EXPECT_FALSE(engine->Abort(id, "bob", absl::CancelledError("no")));
  EXPECT_FALSE(engine->Abort("unknown", "alice", absl::CancelledError("no")));
  EXPECT_TRUE(engine->Abort(id, "alice", absl::CancelledError("yes")));
  model->Release();
  EXPECT_EQ(sink->Await().done->message(), "yes");
}

TEST_F(EngineLifecycleTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  Start();
  model->Hold();
  const auto sink = Submit(MakeRequest());
  engine->BeginDrain();
  EXPECT_EQ(Refusal(MakeRequest()).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(engine->Stats().draining);
  EXPECT_FALSE(engine->AwaitDrained(absl::Now() + absl::Milliseconds(5)));
  model->Release();
  EXPECT_TRUE(engine->AwaitDrained(absl::Now() + absl::Seconds(60)));
  EXPECT_TRUE(sink->Now().done.has_value());
}

TEST_F(EngineLifecycleTest, AbortAllEndsEveryone) {
  options.max_num_seqs = 2;
  Start();
  model->Hold();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(Submit(MakeRequest(100)));
  engine->AbortAll(absl::UnavailableError("second SIGTERM"));
  model->Release();
  for (const auto& sink : sinks) {
    ExpectEnded(sink->Await(), absl::StatusCode::kUnavailable, FinishReason::kCancelled);
  }
  EXPECT_TRUE(Run(MakeRequest()).done->ok());  // only those that were live
}

TEST_F(EngineLifecycleTest, DestructorEndsEveryRequestOnce) {
  // Far more tokens than the engine makes before this thread gets to destroying it.
  constexpr int32_t kManyTokens = 400000;
  limits.max_context_tokens = 2 * kManyTokens;
  limits.num_pages = 2 * kManyTokens / kPageTokens;
  options.max_num_seqs = 2;
  for (const int32_t steps_in_flight : {1, 2}) {
    limits.max_steps_in_flight = steps_in_flight;
    Start();
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < 5; ++i) sinks.push_back(Submit(MakeRequest(kManyTokens)));
    sinks[0]->AwaitTokens(3);
    engine.reset();
    for (const auto& sink : sinks) {
      ASSERT_TRUE(sink->Now().done.has_value());
      ExpectEnded(sink->Now(), absl::StatusCode::kUnavailable, FinishReason::kCancelled);
    }
  }
}

// A companion keeps the steps coming, however late this test's thread is.
TEST_F(EngineLifecycleTest, DeadlineEndsARunningRequestWithAnError) {
  Start();
  model->Hold();
  const auto companion = Submit(MakeRequest(100));
  model->AwaitHeld();
  Request request = MakeRequest(1000);
  request.deadline = absl::Now() + absl::Milliseconds(20);
  const absl::Time deadline = request.deadline;
  const auto sink = Submit(std::move(request));
  model->Allow(3);
  model->AwaitHeld();
  absl::SleepFor(deadline - absl::Now() + absl::Milliseconds(1));
  model->Release();
  const Recorded got = sink->Await();
  ExpectEnded(got, absl::StatusCode::kDeadlineExceeded, FinishReason::kDeadline);
  EXPECT_LE(got.choices[0].token_ids.size(), 3u);  // with that of the step in flight
  EXPECT_TRUE(companion->Await().done->ok());
}

TEST_F(EngineLifecycleTest, ExpiredRequestIsDroppedFromTheQueue) {
  Start();
  Request request = MakeRequest(1000);
  request.deadline = absl::Now() - absl::Milliseconds(1);
  const Recorded got = Run(std::move(request));
  ExpectEnded(got, absl::StatusCode::kDeadlineExceeded, FinishReason::kDeadline);
  EXPECT_THAT(std::string(got.done->message()), HasSubstr("queue"));
  EXPECT_TRUE(model->steps().empty());
}

TEST_F(EngineLifecycleTest, TimeoutReturnsThePartialText) {
  words = {"a", "b"};
  limits.vocab_size = 4 + FakeModel::kFirstToken;
  Start();
  Request request = MakeRequest(1000, {2});
  model->Script(request.sampling.seed, std::vector<int32_t>(1000, 3));
  request.timeout = absl::Milliseconds(20);
  request.sampling.stop_strings = {"bx"};  // holds the last character back
  model->Hold();
  model->Allow(5);
  const auto sink = Submit(std::move(request));
  absl::SleepFor(absl::Milliseconds(20));
  model->Release();
  const Recorded got = sink->Await();
  ExpectEnded(got, absl::StatusCode::kOk, FinishReason::kDeadline);
  EXPECT_EQ(got.choices[0].text, std::string(got.choices[0].token_ids.size(), 'b'));
  EXPECT_EQ(got.choices[0].finish->completion_tokens, got.choices[0].token_ids.size());
}

TEST_F(EngineLifecycleTest, TimeoutInTheQueueReturnsNoText) {
  options.max_num_seqs = 1;
  Start();
  model->Hold();
  const auto running = Submit(MakeRequest(4));
  model->AwaitHeld();
  Request request = MakeRequest();
  request.timeout = absl::Milliseconds(1);
  const auto sink = Submit(std::move(request));
  absl::SleepFor(absl::Milliseconds(2));
  model->Release();
  const Recorded got = sink->Await();
  ExpectEnded(got, absl::StatusCode::kOk, FinishReason::kDeadline);
  EXPECT_TRUE(got.choices[0].token_ids.empty());
  EXPECT_TRUE(running->Await().done->ok());
}

TEST_F(EngineLifecycleTest, HungStepShowsInStatsAndBlocksNobody) {
  Start();
  EXPECT_TRUE(engine->Stats().idle);
  model->Hold();
  const auto sink = Submit(MakeRequest());
  EXPECT_FALSE(engine->Stats().idle);  // even if the engine thread has not seen it yet
  model->AwaitHeld();
  const EngineStats hung = engine->Stats();
  EXPECT_FALSE(hung.idle);
  absl::SleepFor(absl::Milliseconds(2));
  const EngineStats later = engine->Stats();
  EXPECT_EQ(later.last_progress, hung.last_progress);
  EXPECT_GE(absl::Now() - later.last_progress, absl::Milliseconds(2));
  model->Release();
  sink->Await();
  EXPECT_TRUE(engine->AwaitDrained(absl::InfiniteFuture()));
  EXPECT_GT(engine->Stats().last_progress, hung.last_progress);
  EXPECT_GT(engine->Stats().steps, 0u);
}

// On a CPU the launch is the step: its requests run from before it.
TEST_F(EngineLifecycleTest, WhatALongLaunchRunsIsNotSeenWaiting) {
  options.max_queued_requests = 1;
  options.max_num_seqs = 1;
  Start();
  model->HoldInLaunch();
  const auto running = Submit(MakeRequest());
  model->AwaitHeld();
  EXPECT_EQ(observer.Counts().gauges.requests_running, 1);
  EXPECT_EQ(observer.Counts().gauges.requests_waiting, 0);
  EXPECT_EQ(engine->Stats().gauges.requests_running, 1);
  const auto waiting = Submit(MakeRequest());  // the first one's place is free
  EXPECT_EQ(engine->Stats().gauges.requests_waiting, 1);
  EXPECT_EQ(observer.Counts().accepted, 2);  // whoever watches need not wait for the step
  EXPECT_EQ(Refusal(MakeRequest()).code(), absl::StatusCode::kResourceExhausted);
  model->Release();
  EXPECT_TRUE(running->Await().done->ok());
  EXPECT_TRUE(waiting->Await().done->ok());
}

TEST_F(EngineLifecycleTest, AWaitAfterIdlenessIsNotAHang) {
  Start();
  absl::SleepFor(absl::Milliseconds(5));
  model->Hold();
  const absl::Time submitted = absl::Now();
  const auto sink = Submit(MakeRequest());
  EXPECT_GE(engine->Stats().last_progress, submitted);
  model->Release();
  sink->Await();
}

}  // namespace
}  // namespace parallax
