// Waiting for SERVING against a scripted server: pauses, deadline, cancellation.
#include "clients/cpp/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "clients/cpp/client.h"
#include "tests/clients/cpp/fake_health.h"

namespace parallax::client {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

const ScriptedWatch kRefused = {.end = {grpc::StatusCode::UNAVAILABLE, "no replica"}};
const ScriptedWatch kServing = {.says = {ServingStatus::kServing}, .hang = true};
const ScriptedWatch kNeverServing = {.says = {ServingStatus::kNotServing}, .hang = true};

class WaitUntilServingTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(Client::Connect({.target = server_.address()}, &client_).ok());
    options_.timeout = milliseconds(20000);
  }

  FakeHealthService& service() { return server_.service(); }
  grpc::Status Wait() { return WaitUntilServing(client_->channel(), "", options_); }

  // Waits, and is cancelled once `watches` have been started.
  grpc::Status WaitCancelledAfter(int watches) {
    Cancellation cancellation;
    options_.cancellation = &cancellation;
    std::thread canceller([&] {
      service().AwaitWatches(watches);
      cancellation.Cancel();
    });
    const grpc::Status status = Wait();
    canceller.join();
    return status;
  }

  FakeHealthServer server_;
  std::unique_ptr<Client> client_;
  CallOptions options_;
};

TEST_F(WaitUntilServingTest, EndsWhenTheServerSaysSo) {
  service().Script({{.says = {ServingStatus::kNotServing, ServingStatus::kServing}, .hang = true}});
  EXPECT_TRUE(Wait().ok());
  EXPECT_EQ(service().watches(), 1);
}

TEST_F(WaitUntilServingTest, WatchesAgainWhenRefused) {
  options_.retry.initial_backoff = milliseconds(1);
  service().Script({kRefused, kRefused, kServing});
  EXPECT_TRUE(Wait().ok());
  EXPECT_EQ(service().watches(), 3);
}

// Such as a front that is up with no replica behind it.
TEST_F(WaitUntilServingTest, PausesBetweenRefusals) {
  options_.timeout = milliseconds(800);
  service().Script({kRefused});
  const auto start = steady_clock::now();
  EXPECT_EQ(Wait().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_GE(steady_clock::now() - start, milliseconds(795));
  EXPECT_LT(steady_clock::now() - start, milliseconds(5000));
  EXPECT_GE(service().watches(), 2);
  EXPECT_LE(service().watches(), 5);  // at about 0, 100, 300 and 700 ms
}

TEST_F(WaitUntilServingTest, AWatchThatEndsWithoutServingIsNoSuccess) {
  options_.timeout = milliseconds(800);
  service().Script({{.says = {ServingStatus::kNotServing}}});
  EXPECT_EQ(Wait().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_GE(service().watches(), 2);
  EXPECT_LE(service().watches(), 5);
}

TEST_F(WaitUntilServingTest, MakesNoPauseOfMoreThanASecond) {
  options_.retry.initial_backoff = options_.retry.max_backoff = std::chrono::hours(1);
  service().Script({kRefused, kServing});
  EXPECT_TRUE(Wait().ok());
}

TEST_F(WaitUntilServingTest, ReturnsWhatWaitingDoesNotMend) {
  service().Script({{.end = {grpc::StatusCode::UNIMPLEMENTED, "no health here"}}});
  EXPECT_EQ(Wait().error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(service().watches(), 1);
}

TEST_F(WaitUntilServingTest, IsCancelledDuringAPause) {
  options_.retry.initial_backoff = std::chrono::hours(1);
  service().Script({kRefused});
  EXPECT_EQ(WaitCancelledAfter(1).error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LE(service().watches(), 2);  // one, unless the machine stood still for a second
}

TEST_F(WaitUntilServingTest, IsCancelledDuringAWatch) {
  service().Script({kNeverServing});
  EXPECT_EQ(WaitCancelledAfter(1).error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(WaitUntilServingTest, SendsMetadata) {
  options_.metadata = {{"traceparent", "00-1-2-01"}};
  service().Script({kServing});
  EXPECT_TRUE(Wait().ok());
  EXPECT_EQ(service().last_traceparent(), "00-1-2-01");
}

class NobodyListensTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(Client::Connect({.target = "127.0.0.1:1"}, &client_).ok()); }

  std::unique_ptr<Client> client_;
  CallOptions options_;
};

TEST_F(NobodyListensTest, TimesOut) {
  options_.timeout = milliseconds(50);
  EXPECT_EQ(WaitUntilServing(client_->channel(), "", options_).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(NobodyListensTest, IsCancelled) {
  Cancellation cancellation;
  options_.cancellation = &cancellation;
  std::thread canceller([&] {
    std::this_thread::sleep_for(milliseconds(50));
    cancellation.Cancel();
  });
  EXPECT_EQ(WaitUntilServing(client_->channel(), "", options_).error_code(),
            grpc::StatusCode::CANCELLED);
  canceller.join();
}

}  // namespace
}  // namespace parallax::client
