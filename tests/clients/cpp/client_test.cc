// The client library against a scripted server: retries, back-off, cancellation, deadlines.
#include "clients/cpp/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "clients/cpp/health.h"
#include "clients/cpp/perplexity.h"
#include "tests/clients/cpp/fake_server.h"

namespace parallax::client {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::HasSubstr;

const grpc::Status kUnavailable(grpc::StatusCode::UNAVAILABLE, "draining");
const grpc::Status kFull(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full");
const grpc::Status kInvalid(grpc::StatusCode::INVALID_ARGUMENT, "top_p: 2");

class ClientTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(Client::Connect({.target = server_.address(), .token = "secret"}, &client_).ok());
    options_.retry.initial_backoff = milliseconds(1);
  }

  FakeService& service() { return server_.service(); }

  // Texts of a stream, joined, and its status.
  grpc::Status Stream(std::string* text) {
    return client_->GenerateStream(
        {}, options_, [text](const v1::GenerateChunk& chunk) { *text += chunk.text(); });
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
  CallOptions options_;
};

TEST_F(ClientTest, SendsTheBearerToken) {
  v1::GenerateResponse response;
  ASSERT_TRUE(client_->Generate({}, options_, &response).ok());
  EXPECT_EQ(service().last_authorization(), "Bearer secret");
  std::string text;
  ASSERT_TRUE(Stream(&text).ok());
  EXPECT_EQ(service().last_authorization(), "Bearer secret");
}

TEST_F(ClientTest, SendsMetadataWithEveryAttempt) {
  options_.metadata = {{"traceparent", "00-1-2-01"}};
  service().Script({{.status = kUnavailable}, {.chunks = {"a"}}});
  v1::GenerateResponse response;
  ASSERT_TRUE(client_->Generate({}, options_, &response).ok());
  service().Script({{.status = kUnavailable}, {.chunks = {"a"}}});
  std::string text;
  ASSERT_TRUE(Stream(&text).ok());
  EXPECT_THAT(service().traceparents(),
              testing::ElementsAre("00-1-2-01", "00-1-2-01", "00-1-2-01", "00-1-2-01"));
}

TEST_F(ClientTest, RetriesWhatIsWorthRetrying) {
  service().Script({{.status = kUnavailable},
                    {.status = kFull, .retry_after_ms = "1"},
                    {.chunks = {"ab", "c"}}});
  v1::GenerateResponse response;
  ASSERT_TRUE(client_->Generate({}, options_, &response).ok());
  EXPECT_EQ(response.choices(0).text(), "abc");
  EXPECT_EQ(service().attempts(), 3);
}

TEST_F(ClientTest, DoesNotRetryAMistake) {
  service().Script({{.status = kInvalid}});
  v1::GenerateResponse response;
  EXPECT_EQ(client_->Generate({}, options_, &response).error_message(), "top_p: 2");
  EXPECT_EQ(service().attempts(), 1);
}

// Such as a reply over the server's limit: another try would generate it all again.
TEST_F(ClientTest, DoesNotRetryALimitWithoutADelay) {
  for (const std::string delay : {"", "soon"}) {
    const int attempts = service().attempts();
    service().Script(
        {{.status = kFull, .retry_after_ms = delay}, {.status = kFull, .retry_after_ms = delay}});
    v1::GenerateResponse response;
    EXPECT_EQ(client_->Generate({}, options_, &response).error_code(), kFull.error_code());
    std::string text;
    EXPECT_EQ(Stream(&text).error_code(), kFull.error_code());
    EXPECT_EQ(service().attempts(), attempts + 2);
  }
}

TEST_F(ClientTest, GivesUpAfterTheLastAttempt) {
  service().Script(std::vector<ScriptedAttempt>(10, {.status = kFull, .retry_after_ms = "1"}));
  options_.retry.max_attempts = 3;
  v1::GenerateResponse response;
  EXPECT_EQ(client_->Generate({}, options_, &response).error_code(), kFull.error_code());
  EXPECT_EQ(service().attempts(), 3);
}

TEST_F(ClientTest, HonoursTheServersDelay) {
  service().Script({{.status = kFull, .retry_after_ms = "200"}, {.chunks = {"x"}}});
  const auto start = steady_clock::now();
  std::string text;
  ASSERT_TRUE(Stream(&text).ok());
  EXPECT_GE(steady_clock::now() - start, milliseconds(150));
  EXPECT_EQ(text, "x");
}

TEST_F(ClientTest, BoundsTheServersDelay) {
  options_.retry.max_backoff = milliseconds(10);
  service().Script({{.status = kFull, .retry_after_ms = "3600000"}, {.chunks = {"x"}}});
  std::string text;
  EXPECT_TRUE(Stream(&text).ok());
}

TEST_F(ClientTest, IgnoresADelayThatIsNoNumber) {
  service().Script({{.status = kUnavailable, .retry_after_ms = "soon"}, {.chunks = {"x"}}});
  std::string text;
  EXPECT_TRUE(Stream(&text).ok());
}

TEST_F(ClientTest, RetriesAStreamThatDeliveredNothing) {
  service().Script(
      {{.status = kUnavailable}, {.status = kFull, .retry_after_ms = "1"}, {.chunks = {"a", "b"}}});
  std::string text;
  ASSERT_TRUE(Stream(&text).ok());
  EXPECT_EQ(text, "ab");
  EXPECT_EQ(service().attempts(), 3);
}

TEST_F(ClientTest, NeverRepeatsDeliveredText) {
  service().Script({{.status = kUnavailable, .chunks = {"a"}}, {.chunks = {"a", "b"}}});
  std::string text;
  EXPECT_EQ(Stream(&text).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(service().attempts(), 1);
}

TEST_F(ClientTest, CancelsARunningStream) {
  service().Script({{.chunks = {"a"}, .hang = true}});
  Cancellation cancellation;
  options_.cancellation = &cancellation;
  std::string text;
  std::thread canceller([&] {
    service().AwaitAttempts(1);
    cancellation.Cancel();
  });
  EXPECT_EQ(Stream(&text).error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
  EXPECT_EQ(service().attempts(), 1);
}

TEST_F(ClientTest, CancelsARunningUnaryCall) {
  service().Script({{.hang = true}});
  Cancellation cancellation;
  options_.cancellation = &cancellation;
  std::thread canceller([&] {
    service().AwaitAttempts(1);
    cancellation.Cancel();
  });
  v1::GenerateResponse response;
  EXPECT_EQ(client_->Generate({}, options_, &response).error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
}

TEST_F(ClientTest, CancelsDuringABackOff) {
  options_.retry.initial_backoff = std::chrono::hours(1);
  options_.retry.max_backoff = std::chrono::hours(1);
  for (const bool stream : {false, true}) {
    service().Script({{.status = kUnavailable}});
    const int attempts = service().attempts();
    Cancellation cancellation;
    options_.cancellation = &cancellation;
    std::thread canceller([&] {
      service().AwaitAttempts(attempts + 1);
      cancellation.Cancel();
    });
    v1::GenerateResponse response;
    std::string text;
    const auto status = stream ? Stream(&text) : client_->Generate({}, options_, &response);
    canceller.join();
    // Cancelled either while the refusal was on its way or while waiting to try again.
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED) << "stream: " << stream;
    EXPECT_EQ(service().attempts(), attempts + 1);
  }
}

TEST_F(ClientTest, ACancelledCallDoesNotStart) {
  Cancellation cancellation;
  cancellation.Cancel();
  options_.cancellation = &cancellation;
  v1::GenerateResponse response;
  EXPECT_EQ(client_->Generate({}, options_, &response).error_code(), grpc::StatusCode::CANCELLED);
  std::string text;
  EXPECT_EQ(Stream(&text).error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ClientTest, ADeadlineEndsTheCall) {
  service().Script({{.hang = true}, {.hang = true}});
  options_.timeout = milliseconds(50);
  v1::GenerateResponse response;
  EXPECT_EQ(client_->Generate({}, options_, &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  std::string text;
  EXPECT_EQ(Stream(&text).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ClientTest, ARefusalIsNotTurnedIntoATimeout) {
  service().Script(std::vector<ScriptedAttempt>(4, {.status = kFull, .retry_after_ms = "40000"}));
  options_.retry.max_backoff = std::chrono::seconds(60);
  options_.timeout = std::chrono::seconds(20);
  v1::GenerateResponse response;
  const auto start = steady_clock::now();
  EXPECT_EQ(client_->Generate({}, options_, &response).error_code(), kFull.error_code());
  std::string text;
  EXPECT_EQ(Stream(&text).error_code(), kFull.error_code());
  EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(10));
}

TEST_F(ClientTest, ManyStreamsAtOnceEachEndOnce) {
  constexpr int kStreams = 64;
  service().Script(std::vector<ScriptedAttempt>(kStreams, {.chunks = {"a", "b", "c"}}));
  std::vector<int> done(kStreams);
  std::vector<std::string> texts(kStreams);
  std::vector<std::shared_ptr<StreamCall>> calls;
  for (int i = 0; i < kStreams; ++i) {
    StreamCallbacks callbacks;
    callbacks.on_chunk = [&texts, i](const v1::GenerateChunk& chunk) { texts[i] += chunk.text(); };
    callbacks.on_done = [&done, i](const grpc::Status&) { ++done[i]; };
    calls.push_back(client_->StartStream({}, options_, std::move(callbacks)));
  }
  for (const auto& call : calls) EXPECT_TRUE(call->Wait().ok());
  EXPECT_THAT(done, testing::Each(1));
  EXPECT_THAT(texts, testing::Each("abc"));
}

TEST_F(ClientTest, HealthOfAServerWithoutTheServiceIsAnError) {
  auto serving = ServingStatus::kUnknown;
  const auto status = CheckHealth(client_->channel(), "", options_, &serving);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

// -log p of byte b is b / 100: the sums are known.
TEST_F(ClientTest, PerplexityCountsEveryTokenOnce) {
  const std::vector<std::string> documents = {std::string(200, 'A'), "B"};
  PerplexityOptions options;
  options.window_tokens = 64;
  PerplexityResult result;
  ASSERT_TRUE(MeasurePerplexity(client_.get(), documents, options, options_, &result).ok());
  EXPECT_EQ(result.scored_tokens, 201);
  EXPECT_EQ(result.bytes, 201);
  EXPECT_EQ(result.windows, 4 + 1);  // 200 targets by 63, and 1
  const double nll = 200 * 0.65 + 0.66;
  EXPECT_NEAR(result.nll, nll, 1e-4);
  EXPECT_NEAR(result.Perplexity(), std::exp(nll / 201), 1e-5);
  EXPECT_NEAR(result.BitsPerByte(), nll / std::log(2.0) / 201, 1e-5);

  options.score_end = true;
  ASSERT_TRUE(MeasurePerplexity(client_.get(), documents, options, options_, &result).ok());
  EXPECT_EQ(result.scored_tokens, 203);
  EXPECT_NEAR(result.nll, nll + 2 * 2.57, 1e-4);
}

TEST_F(ClientTest, PerplexityRefusesAWindowThatCannotBeServed) {
  const std::vector<std::string> documents = {"A"};
  for (const int32_t window : {-1, 1, 65}) {
    PerplexityOptions options;
    options.window_tokens = window;
    PerplexityResult result;
    const auto status = MeasurePerplexity(client_.get(), documents, options, options_, &result);
    EXPECT_THAT(status.error_message(), HasSubstr("window: " + std::to_string(window)));
  }
}

TEST(ChannelTest, NamesAFileThatCannotBeRead) {
  std::unique_ptr<Client> client;
  ChannelOptions options;
  options.tls = TlsOptions{.ca_file = "/nonexistent/ca.pem"};
  EXPECT_THAT(Client::Connect(options, &client).error_message(), HasSubstr("/nonexistent/ca.pem"));
}

TEST(ChannelTest, RefusesHalfAnIdentity) {
  std::unique_ptr<Client> client;
  ChannelOptions options;
  options.tls = TlsOptions{.cert_file = "client.pem"};
  EXPECT_THAT(Client::Connect(options, &client).error_message(), HasSubstr("client.pem"));
}

TEST(SplitDocumentsTest, DropsDocumentsWithoutText) {
  EXPECT_THAT(SplitDocuments("a<end>\n<end>b<end>", "<end>"), testing::ElementsAre("a", "b"));
  EXPECT_THAT(SplitDocuments("a b", ""), testing::ElementsAre("a b"));
  EXPECT_THAT(SplitDocuments("", "x"), testing::IsEmpty());
}

}  // namespace
}  // namespace parallax::client
