// The queues between the threads: bounded, in order, and never naming a request that ended.
#include "engine/inbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/retry_after.h"
#include "tests/engine/recording_sink.h"

namespace parallax {
namespace {

std::unique_ptr<LiveRequest> MakeLive(const std::string& id, int32_t prompt_tokens = 0) {
  Request request;
  request.id = id;
  request.prompt.resize(prompt_tokens);
  return std::make_unique<LiveRequest>(std::move(request), nullptr, nullptr, absl::Now());
}

class InboxTest : public ::testing::Test {
 protected:
  LiveRequest* Submit(const std::string& id) {
    auto live = MakeLive(id);
    LiveRequest* const raw = live.get();
    const absl::Status status = inbox.Submit(std::move(live));
    EXPECT_TRUE(status.ok()) << status;
    return raw;
  }

  Inbox inbox{/*max_queued_requests=*/2};
  Inbox::Messages messages;
};

TEST_F(InboxTest, SubmissionsArriveInOrderOnce) {
  LiveRequest* const a = Submit("a");
  LiveRequest* const b = Submit("b");
  inbox.Take(/*wait=*/true, &messages);
  EXPECT_EQ(messages.submitted, (std::vector<LiveRequest*>{a, b}));
  inbox.Take(/*wait=*/false, &messages);
  EXPECT_TRUE(messages.submitted.empty());
}

TEST_F(InboxTest, OneCancellationARequestHoweverOftenItIsCancelled) {
  Submit("a");
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(inbox.Cancel("a", /*sink=*/nullptr, absl::CancelledError(std::to_string(i))));
  }
  inbox.CancelAll(absl::UnavailableError("all"));
  inbox.Take(/*wait=*/true, &messages);
  ASSERT_EQ(messages.cancelled.size(), 1u);
  EXPECT_EQ(messages.cancelled[0].status.message(), "0");
  EXPECT_TRUE(inbox.Cancel("a", /*sink=*/nullptr, absl::CancelledError("again")));
  inbox.Take(/*wait=*/false, &messages);
  EXPECT_TRUE(messages.cancelled.empty());
}

// A call that was cancelled just when its request ended: the caller may have sent another by then.
TEST_F(InboxTest, ACancellationReachesNoOtherRequestOfTheSameId) {
  const auto sink = std::make_shared<RecordingSink>();
  Request request;
  request.id = "a";
  request.prompt = {1};
  EXPECT_TRUE(
      inbox.Submit(std::make_unique<LiveRequest>(std::move(request), sink, nullptr, absl::Now()))
          .ok());
  const RecordingSink of_the_old_call;
  EXPECT_FALSE(inbox.Cancel("a", &of_the_old_call, absl::CancelledError("late")));
  EXPECT_TRUE(inbox.Cancel("a", sink.get(), absl::CancelledError("its own")));
}

TEST_F(InboxTest, CancellationsOfAnEndedRequestAreForgotten) {
  LiveRequest* const a = Submit("a");
  inbox.Take(/*wait=*/true, &messages);
  EXPECT_TRUE(inbox.Cancel("a", /*sink=*/nullptr, absl::CancelledError("late")));
  const std::unique_ptr<LiveRequest> owned = inbox.Unregister(a);
  EXPECT_EQ(owned.get(), a);
  EXPECT_FALSE(inbox.Cancel("a", /*sink=*/nullptr, absl::CancelledError("later")));
  inbox.Take(/*wait=*/false, &messages);
  EXPECT_TRUE(messages.cancelled.empty());
}

TEST_F(InboxTest, TheQueueCountsWhatWasNeverScheduled) {
  LiveRequest* const a = Submit("a");
  LiveRequest* const b = Submit("b");
  EXPECT_EQ(inbox.Submit(MakeLive("c")).code(), absl::StatusCode::kResourceExhausted);
  inbox.LeaveQueue(a, absl::Now());
  Submit("c");
  EXPECT_EQ(inbox.Submit(MakeLive("d")).code(), absl::StatusCode::kResourceExhausted);
  inbox.Unregister(a);  // ran: frees no place
  EXPECT_EQ(inbox.Submit(MakeLive("d")).code(), absl::StatusCode::kResourceExhausted);
  inbox.Unregister(b);  // ended in the queue
  Submit("d");
  EXPECT_EQ(inbox.GetCounts().submitted, 4u);
}

TEST_F(InboxTest, LongPromptsFillTheQueueBeforeManyDo) {
  Inbox queue(/*max_queued_requests=*/10, /*max_queued_tokens=*/100);
  EXPECT_TRUE(queue.Submit(MakeLive("longer than all that may wait", 150)).ok());
  EXPECT_EQ(queue.CheckAccepts("a", 1).code(), absl::StatusCode::kResourceExhausted);
  queue.Take(/*wait=*/true, &messages);
  queue.LeaveQueue(messages.submitted.front(), absl::Now());
  EXPECT_TRUE(queue.Submit(MakeLive("a", 60)).ok());
  EXPECT_TRUE(queue.Submit(MakeLive("b", 40)).ok());
  const absl::Status full = queue.Submit(MakeLive("c", 1));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()),
              ::testing::HasSubstr("2 requests of 100 prompt tokens wait"));
  queue.Take(/*wait=*/true, &messages);
  queue.Unregister(messages.submitted.back());
  EXPECT_TRUE(queue.Submit(MakeLive("c", 40)).ok());
}

// A queue of ten is worth another try after one has left, at the pace of a queue that moves:
// the time in which nobody waited says nothing.
TEST_F(InboxTest, TheRetryHintIsThePaceOfAQueueThatMoves) {
  Inbox queue(10);
  std::vector<LiveRequest*> live;
  int submitted = 0;
  const auto fill = [&] {
    for (auto next = MakeLive(std::to_string(submitted++));;
         next = MakeLive(std::to_string(submitted++))) {
      LiveRequest* const raw = next.get();
      const absl::Status status = queue.Submit(std::move(next));
      if (!status.ok()) return GetRetryAfter(status).value();
      live.push_back(raw);
    }
  };
  absl::Time now = absl::UnixEpoch();
  const auto leave = [&](absl::Duration after) {
    queue.LeaveQueue(live.front(), now += after);
    live.erase(live.begin());
  };
  const auto leave_all = [&](absl::Duration pace) {
    leave(absl::ZeroDuration());
    while (!live.empty()) leave(pace);
  };
  for (int i = 0; i < 10; ++i) {
    fill();
    leave_all(absl::Milliseconds(200));
    now += absl::Seconds(60);  // idle
  }
  EXPECT_NEAR(absl::ToDoubleMilliseconds(fill()), 200, 5);
  for (LiveRequest* request : live) queue.Unregister(request);  // they gave up
  live.clear();
  now += absl::Seconds(60);
  fill();
  leave(absl::ZeroDuration());
  EXPECT_NEAR(absl::ToDoubleMilliseconds(fill()), 200, 5);
}

TEST_F(InboxTest, RefusesOnceTold) {
  inbox.BeginDrain();
  EXPECT_EQ(inbox.Submit(MakeLive("a")).code(), absl::StatusCode::kUnavailable);
  inbox.Refuse(absl::UnavailableError("broken"));
  EXPECT_EQ(inbox.Submit(MakeLive("a")).message(), "broken");
}

}  // namespace
}  // namespace parallax
