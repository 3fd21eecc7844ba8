// The queues between the threads: bounded, in order, and never naming a request that ended.
#include "engine/inbox.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"

namespace parallax {
namespace {

std::unique_ptr<LiveRequest> MakeLive(const std::string& id) {
  Request request;
  request.id = id;
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
    EXPECT_TRUE(inbox.Cancel("a", std::nullopt, absl::CancelledError(std::to_string(i))));
  }
  inbox.CancelAll(absl::UnavailableError("all"));
  inbox.Take(/*wait=*/true, &messages);
  ASSERT_EQ(messages.cancelled.size(), 1u);
  EXPECT_EQ(messages.cancelled[0].status.message(), "0");
  EXPECT_TRUE(inbox.Cancel("a", std::nullopt, absl::CancelledError("again")));
  inbox.Take(/*wait=*/false, &messages);
  EXPECT_TRUE(messages.cancelled.empty());
}

TEST_F(InboxTest, CancellationsOfAnEndedRequestAreForgotten) {
  LiveRequest* const a = Submit("a");
  inbox.Take(/*wait=*/true, &messages);
  EXPECT_TRUE(inbox.Cancel("a", std::nullopt, absl::CancelledError("late")));
  const std::unique_ptr<LiveRequest> owned = inbox.Unregister(a);
  EXPECT_EQ(owned.get(), a);
  EXPECT_FALSE(inbox.Cancel("a", std::nullopt, absl::CancelledError("later")));
  inbox.Take(/*wait=*/false, &messages);
  EXPECT_TRUE(messages.cancelled.empty());
}

TEST_F(InboxTest, TheQueueCountsWhatWasNeverScheduled) {
  LiveRequest* const a = Submit("a");
  LiveRequest* const b = Submit("b");
  EXPECT_EQ(inbox.Submit(MakeLive("c")).code(), absl::StatusCode::kResourceExhausted);
  inbox.LeaveQueue(a);
  Submit("c");
  EXPECT_EQ(inbox.Submit(MakeLive("d")).code(), absl::StatusCode::kResourceExhausted);
  inbox.Unregister(a);  // ran: frees no place
  EXPECT_EQ(inbox.Submit(MakeLive("d")).code(), absl::StatusCode::kResourceExhausted);
  inbox.Unregister(b);  // ended in the queue
  Submit("d");
  EXPECT_EQ(inbox.GetCounts().submitted, 4u);
}

TEST_F(InboxTest, RefusesOnceTold) {
  inbox.BeginDrain();
  EXPECT_EQ(inbox.Submit(MakeLive("a")).code(), absl::StatusCode::kUnavailable);
  inbox.Refuse(absl::UnavailableError("broken"));
  EXPECT_EQ(inbox.Submit(MakeLive("a")).message(), "broken");
}

}  // namespace
}  // namespace parallax
