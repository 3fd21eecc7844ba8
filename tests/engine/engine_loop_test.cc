// What the loop leaves behind, seen from inside: no group, no page, no broken invariant.
#include "engine/engine_loop.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/engine/fake_model_runner.h"
#include "tests/engine/recording_sink.h"

namespace parallax {
namespace {

constexpr int32_t kRequests = 200;

class EngineLoopTest : public ::testing::TestWithParam<int32_t> {
 protected:
  static RunnerLimits Limits() {
    RunnerLimits limits;
    limits.vocab_size = 512;
    limits.max_context_tokens = 512;
    limits.max_num_seqs = 8;
    limits.max_num_batched_tokens = 64;
    limits.num_pages = 16;
    limits.max_steps_in_flight = GetParam();
    return limits;
  }

  static SchedulerOptions Options(const RunnerLimits& limits) {
    return {.num_pages = limits.num_pages,
            .max_num_seqs = limits.max_num_seqs,
            .max_num_batched_tokens = limits.max_num_batched_tokens,
            .max_context_tokens = limits.max_context_tokens,
            .max_steps_in_flight = limits.max_steps_in_flight};
  }

  void SubmitAll() {
    for (int32_t i = 0; i < kRequests; ++i) {
      Request request;
      request.id = absl::StrCat(i);
      request.prompt.assign(1 + i * 13 % 150, 20 + i % 3);
      request.sampling.seed = i;
      request.sampling.n = 1 + i % 2;
      request.sampling.max_tokens = 1 + i % 60;
      sinks.push_back(std::make_shared<RecordingSink>(request.sampling.n));
      const absl::Status status = inbox.Submit(
          std::make_unique<LiveRequest>(std::move(request), sinks.back(), nullptr, absl::Now()));
      EXPECT_TRUE(status.ok()) << status;
      const auto& earlier = sinks[static_cast<size_t>(i / 2)];
      if (i % 5 == 0) inbox.Cancel(absl::StrCat(i / 2), earlier.get(), absl::CancelledError("x"));
    }
  }

  void RunToTheEnd() {
    model->Hold();  // until all are there: none is refused by a backend that breaks
    std::thread thread([this] { loop.Run(); });
    SubmitAll();
    model->Release();
    EXPECT_TRUE(inbox.AwaitEmpty(absl::InfiniteFuture()));
    inbox.Stop();
    thread.join();
    EXPECT_TRUE(scheduler.groups().empty());
    EXPECT_EQ(scheduler.CheckInvariants(), "");
    EXPECT_EQ(scheduler.Counts().pages_used, 0);
    EXPECT_EQ(model->violation(), "");
  }

  std::vector<std::shared_ptr<RecordingSink>> sinks;
  const RunnerLimits limits = Limits();
  std::shared_ptr<FakeModel> model = std::make_shared<FakeModel>();
  FakeModelRunner runner{limits, model};
  EngineObserver observer;
  Scheduler scheduler{Options(limits)};
  Inbox inbox{kRequests};
  StatsBoard board;
  EngineLoop loop{Options(limits), {}, &scheduler, &runner, &inbox, &board, &observer};
};

TEST_P(EngineLoopTest, ForgetsEveryRequest) {
  RunToTheEnd();
  EXPECT_TRUE(board.Read().health.ok());
}

TEST_P(EngineLoopTest, ForgetsEveryRequestOfABrokenBackend) {
  model->FailCollect(3);
  RunToTheEnd();
  EXPECT_FALSE(board.Read().health.ok());
}

INSTANTIATE_TEST_SUITE_P(StepsInFlight, EngineLoopTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace parallax
