// Generate and GenerateStream over real gRPC; the test plays the engine.
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "engine/retry_after.h"
#include "gmock/gmock.h"
#include "tests/server/rpc_fixture.h"
#include "vllm/vllm_engine.grpc.pb.h"

namespace parallax::server {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GenerateTest : public RpcFixture {
 protected:
  void SetUp() override {
    StartServer();
    stub_ = Stub();
  }

  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(GenerateTest, StreamsDeltasAndEndsWithStatus) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  EXPECT_EQ(call.request.id, "r1");
  EXPECT_EQ(call.request.principal, "anonymous");

  call.sink->OnDelta(TokenDelta(0, {7}));
  v1::GenerateChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(context.GetServerInitialMetadata().find("x-request-id")->second, "r1");
  EXPECT_EQ(chunk.request_id(), "r1");
  EXPECT_THAT(chunk.token_ids(), ElementsAre(7));
  call.sink->OnDelta(TokenDelta(0, {8}, /*finish=*/true));
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(chunk.request_id(), "") << "on the first chunk only";
  EXPECT_THAT(chunk.token_ids(), ElementsAre(8));
  EXPECT_EQ(chunk.finish().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(chunk.finish().usage().completion_tokens(), 2);
  engine_.End(call, absl::OkStatus());
  EXPECT_FALSE(reader->Read(&chunk));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(RpcCount("GenerateStream", "OK"), 1);
}

TEST_F(GenerateTest, TheFirstTokenIsTimedOnceItLeaves) {
  const auto count = [this] { return MetricValue("parallax:time_to_first_token_seconds_count"); };
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  EXPECT_EQ(count(), 0);
  call.sink->OnDelta(TokenDelta(0, {7}));
  v1::GenerateChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(count(), 1);
  const double seconds = MetricValue("parallax:time_to_first_token_seconds_sum");
  EXPECT_GT(seconds, 0.0);
  EXPECT_LT(seconds, absl::ToDoubleSeconds(absl::Now() - call.request.arrival));
  call.sink->OnDelta(TokenDelta(0, {8}, /*finish=*/true));
  engine_.End(call, absl::OkStatus());
  while (reader->Read(&chunk)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(count(), 1) << "once a call";
}

TEST_F(GenerateTest, TheFirstTokenOfACallThatDoesNotStreamIsTimedWhenItIsThere) {
  auto reply = std::async([this] {
    grpc::ClientContext context;
    v1::GenerateResponse response;
    return stub_->Generate(&context, TokenRequest("u1"), &response);
  });
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnDelta(TokenDelta(0, {7}));
  EXPECT_EQ(MetricValue("parallax:time_to_first_token_seconds_count"), 1);
  call.sink->OnDelta(TokenDelta(0, {8}, /*finish=*/true));
  engine_.End(call, absl::OkStatus());
  EXPECT_TRUE(reply.get().ok());
  EXPECT_EQ(MetricValue("parallax:time_to_first_token_seconds_count"), 1);
}

TEST_F(GenerateTest, TheEngineIsToldWhenTheCallArrived) {
  const absl::Time before = absl::Now();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  EXPECT_GE(call.request.arrival, before);
  EXPECT_LE(call.request.arrival, absl::Now());
  engine_.End(call, absl::OkStatus());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateTest, ARefusalIsTheFirstAnswerSoThatABalancerMayTryElsewhere) {
  engine_.RefuseNext(absl::UnavailableError("draining"));
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  reader->WaitForInitialMetadata();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(context.GetServerInitialMetadata().empty()) << "trailers only";
  EXPECT_EQ(context.GetServerTrailingMetadata().find("x-request-id")->second, "r1");
}

TEST_F(GenerateTest, SoIsAnEndBeforeTheFirstTokenOfARequestThatTheCallerNamed) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  engine_.End(engine_.AwaitSubmitted(), absl::UnavailableError("draining"));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(context.GetServerInitialMetadata().empty()) << "trailers only";
  EXPECT_EQ(context.GetServerTrailingMetadata().find("x-request-id")->second, "r1");
}

// Its two messages are ready at once, the first with the initial metadata.
TEST_F(GenerateTest, AGatewaysStreamOfOneChunkEnds) {
  ::vllm::grpc::engine::GenerateRequest request;
  request.set_request_id("r1");
  request.mutable_tokenized()->add_input_ids(1);
  request.set_stream(true);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  const auto engine = ::vllm::grpc::engine::VllmEngine::NewStub(Channel());
  auto reader = engine->Generate(&context, request);
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnDelta(TokenDelta(0, {7}, /*finish=*/true));
  ::vllm::grpc::engine::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_THAT(message.chunk().token_ids(), ElementsAre(7));
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.complete().finish_reason(), "length");
  engine_.End(call, absl::OkStatus());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateTest, ServerNamesARequestAtOnceIfTheClientDoesNot) {
  v1::GenerateRequest request = TokenRequest("x");
  request.clear_request_id();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, request);
  reader->WaitForInitialMetadata();  // no token was generated yet
  const auto& id = context.GetServerInitialMetadata().find("x-request-id")->second;
  const auto call = engine_.AwaitSubmitted();
  EXPECT_EQ(call.request.id, std::string(id.data(), id.size()));
  engine_.End(call, absl::OkStatus());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateTest, UnaryCollectsChoices) {
  v1::GenerateRequest request = TokenRequest("u1");
  request.mutable_sampling()->set_n(2);
  v1::GenerateResponse response;
  std::thread engine([&] {
    const auto call = engine_.AwaitSubmitted();
    call.sink->OnStart({.prompt_tokens = 3, .cached_tokens = 0, .prompt_logprobs = {}, .echo = {}});
    call.sink->OnDelta(TokenDelta(1, {10}));
    call.sink->OnDelta(TokenDelta(0, {20}));
    call.sink->OnDelta(TokenDelta(1, {11}, true));
    call.sink->OnDelta(TokenDelta(0, {21}, true));
    engine_.End(call, absl::OkStatus());
  });
  grpc::ClientContext context;
  const grpc::Status status = stub_->Generate(&context, request, &response);
  engine.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id(), "u1");
  ASSERT_EQ(response.choices_size(), 2);
  EXPECT_THAT(response.choices(0).token_ids(), ElementsAre(20, 21));
  EXPECT_THAT(response.choices(1).token_ids(), ElementsAre(10, 11));
  EXPECT_EQ(response.usage().prompt_tokens(), 3);
  EXPECT_EQ(response.usage().completion_tokens(), 4);
  EXPECT_EQ(RpcCount("Generate", "OK"), 1);
}

TEST_F(GenerateTest, RefusalsCarryStatusAndRetryHint) {
  absl::Status full = absl::ResourceExhaustedError("queue full");
  SetRetryAfter(absl::Milliseconds(123), &full);
  engine_.RefuseNext(full);
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context.GetServerTrailingMetadata().find("retry-after-ms")->second, "123");

  grpc::ClientContext unary_context;
  engine_.RefuseNext(full);
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&unary_context, TokenRequest("r2"), &response).error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(unary_context.GetServerTrailingMetadata().count("retry-after-ms"), 1u);
  EXPECT_EQ(RpcCount("GenerateStream", "RESOURCE_EXHAUSTED"), 1);
  EXPECT_EQ(RpcCount("Generate", "RESOURCE_EXHAUSTED"), 1);
}

TEST_F(GenerateTest, InvalidRequestsNeverReachTheEngine) {
  v1::GenerateRequest request = TokenRequest("r1");
  request.mutable_sampling()->set_top_p(7);
  grpc::ClientContext context;
  const grpc::Status status = stub_->GenerateStream(&context, request)->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("sampling.top_p: 7"));
  EXPECT_EQ(RpcCount("GenerateStream", "INVALID_ARGUMENT"), 1);
}

TEST_F(GenerateTest, EngineErrorsReachTheClient) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnDelta(TokenDelta(0, {1}));
  engine_.End(call, absl::InternalError("NaN logits"));
  v1::GenerateChunk chunk;
  EXPECT_TRUE(reader->Read(&chunk)) << "what was generated before the error is delivered";
  EXPECT_FALSE(reader->Read(&chunk));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "NaN logits");
}

TEST_F(GenerateTest, ClientCancellationReachesTheEngine) {
  for (const bool streaming : {true, false}) {
    const std::string id = streaming ? "s" : "u";
    grpc::ClientContext context;
    std::thread client([&] {
      if (streaming) {
        v1::GenerateChunk chunk;
        auto reader = stub_->GenerateStream(&context, TokenRequest(id));
        while (reader->Read(&chunk)) {
        }
        EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
      } else {
        v1::GenerateResponse response;
        EXPECT_EQ(stub_->Generate(&context, TokenRequest(id), &response).error_code(),
                  StatusCode::CANCELLED);
      }
    });
    const auto call = engine_.AwaitSubmitted();
    call.sink->OnDelta(TokenDelta(0, {1}));
    context.TryCancel();
    const absl::Status status = engine_.AwaitCancelled(id);
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
    call.sink->OnDelta(TokenDelta(0, {2}));  // a step that was in flight
    engine_.End(call, status);
    client.join();
  }
  server_->Shutdown(absl::Now() + absl::Seconds(10));  // every call has ended
  EXPECT_EQ(RpcCount("GenerateStream", "CANCELLED"), 1);
  EXPECT_EQ(RpcCount("Generate", "CANCELLED"), 1);
}

TEST_F(GenerateTest, DeadlineIsPassedOnAndItsExpiryTold) {
  grpc::ClientContext context;
  // Far enough that the call is at the engine before it passes.
  const absl::Time began = absl::Now();
  const absl::Time deadline = began + absl::Seconds(2);
  context.set_deadline(absl::ToChronoTime(deadline));
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  // On the wire is the time that is left, rounded up to 10 ms: it is off by that and by what the
  // way took, at most.
  const absl::Duration way = absl::Now() - began;
  EXPECT_LE(absl::AbsDuration(call.request.deadline - deadline), way + absl::Milliseconds(20));
  const absl::Status status = engine_.AwaitCancelled("r1");
  EXPECT_TRUE(status.code() == absl::StatusCode::kDeadlineExceeded ||
              status.code() == absl::StatusCode::kCancelled)
      << status;  // the client's own timer may reset the stream first
  engine_.End(call, status);
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(GenerateTest, SlowReaderCoalescesThenIsEnded) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("slow"));
  const auto call = engine_.AwaitSubmitted();
  // Far more than the outbox, gRPC's window and the socket's buffers hold together.
  const std::vector<int32_t> ids(1000, 999);
  int64_t sent = 0;
  std::future<absl::Status> cancelled =
      std::async(std::launch::async, [&] { return engine_.AwaitCancelled("slow"); });
  while (cancelled.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    call.sink->OnDelta(TokenDelta(0, ids));  // never blocks
    sent += 1000;
  }
  const absl::Status status = cancelled.get();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  engine_.End(call, absl::OkStatus());  // finished before it saw the cancellation

  int64_t received = 0, messages = 0;
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
    received += chunk.token_ids_size();
    ++messages;
  }
  const grpc::Status end = reader->Finish();
  EXPECT_EQ(end.error_code(), StatusCode::RESOURCE_EXHAUSTED) << "output is missing";
  EXPECT_THAT(end.error_message(), HasSubstr("reads too slowly"));
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after-ms"), 0u);
  EXPECT_LT(received, sent);
  EXPECT_LT(messages, sent / 1000);
}

// A prompt's echo of `bytes`, all text.
RequestStart LongEcho(size_t bytes) {
  return {.prompt_tokens = 3,
          .cached_tokens = 0,
          .prompt_logprobs = nullptr,
          .echo = std::make_shared<const Echo>(Echo{std::string(bytes, 'e'), {1, 2, 3}, nullptr})};
}

constexpr size_t kMoreThanGrpcBuffers = size_t{32} << 20;

TEST_F(GenerateTest, WhoTakesNothingOfAFinishedAnswerIsCutOff) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("unread"));
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnStart(LongEcho(kMoreThanGrpcBuffers));
  call.sink->OnDelta(TokenDelta(0, {7}, /*finish=*/true));
  engine_.End(call, absl::OkStatus());
  EXPECT_TRUE(open_calls_.AwaitClosed(absl::Now() + absl::Seconds(60))) << "held for ever";
  EXPECT_EQ(RpcCount("GenerateStream", "RESOURCE_EXHAUSTED"), 1);
  EXPECT_EQ(RpcCount("GenerateStream", "OK"), 0);
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(GenerateTest, WhoTakesNothingAfterAnOverflowIsCutOff) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("unread"));
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnStart(LongEcho(kMoreThanGrpcBuffers));
  call.sink->OnDelta(TokenDelta(0, {7}));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // a write is stuck by now
  for (int i = 0; i < 100; ++i) call.sink->OnDelta(TokenDelta(0, std::vector<int32_t>(1000, 9)));
  engine_.End(call, engine_.AwaitCancelled("unread"));
  EXPECT_TRUE(open_calls_.AwaitClosed(absl::Now() + absl::Seconds(60))) << "held for ever";
  EXPECT_EQ(RpcCount("GenerateStream", "RESOURCE_EXHAUSTED"), 1);
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

// Each part that it takes gives it the time anew.
TEST_F(GenerateTest, WhoReadsSlowlyGetsAFinishedAnswerAllTheSame) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("slow"));
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnStart(LongEcho(kMoreThanGrpcBuffers));
  call.sink->OnDelta(TokenDelta(0, {7}, /*finish=*/true));
  engine_.End(call, absl::OkStatus());
  size_t bytes = 0;
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
    bytes += chunk.text().size();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // 5 s for all
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, kMoreThanGrpcBuffers);
  EXPECT_EQ(RpcCount("GenerateStream", "OK"), 1);
}

TEST_F(GenerateTest, LargeUnaryReplyIsRefusedByItsBound) {
  v1::GenerateResponse response;
  std::thread engine([&] {
    const auto call = engine_.AwaitSubmitted();
    for (int i = 0; i < 100; ++i) {
      call.sink->OnDelta(TokenDelta(0, std::vector<int32_t>(1000, 5)));
    }
    engine_.End(call, engine_.AwaitCancelled("big"));
  });
  grpc::ClientContext context;
  const grpc::Status status = stub_->Generate(&context, TokenRequest("big"), &response);
  engine.join();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("use GenerateStream"));
}

TEST_F(GenerateTest, AbortReachesOnlyLiveRequests) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("live"));
  const auto call = engine_.AwaitSubmitted();
  v1::AbortRequest abort;
  abort.add_request_ids("live");
  abort.add_request_ids("other");
  v1::AbortResponse response;
  grpc::ClientContext abort_context;
  ASSERT_TRUE(stub_->Abort(&abort_context, abort, &response).ok());
  EXPECT_THAT(response.aborted(), ElementsAre("live"));
  EXPECT_THAT(response.not_found(), ElementsAre("other"));
  engine_.End(call, engine_.AwaitCancelled("live"));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);

  grpc::ClientContext empty_context;
  EXPECT_EQ(stub_->Abort(&empty_context, v1::AbortRequest(), &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
}

// Many streams ended in every way at once: each client gets exactly one terminal status, the
// one the engine decided, unless the client itself went first.
TEST_F(GenerateTest, EveryCallEndsExactlyOnce) {
  constexpr int kCalls = 200;
  std::atomic<int> ok{0}, aborted{0}, cancelled{0}, other{0};
  std::thread engine([&] {
    for (int i = 0; i < kCalls; ++i) {
      const auto call = engine_.AwaitSubmitted();
      const int kind = std::stoi(call.request.id) % 3;
      for (int t = 0; t < 5; ++t) call.sink->OnDelta(TokenDelta(0, {t}));
      if (kind == 0) call.sink->OnDelta(TokenDelta(0, {9}, true));
      if (kind == 0) engine_.End(call, absl::OkStatus());
      if (kind == 1) engine_.End(call, absl::AbortedError("x"));
      if (kind == 2) engine_.End(call, engine_.AwaitCancelled(call.request.id));
    }
  });
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      for (int i = c; i < kCalls; i += 4) {
        grpc::ClientContext context;
        auto reader = stub_->GenerateStream(&context, TokenRequest(std::to_string(i)));
        v1::GenerateChunk chunk;
        while (reader->Read(&chunk)) {
          if (i % 3 == 2) context.TryCancel();
        }
        const StatusCode code = reader->Finish().error_code();
        ++(code == StatusCode::OK          ? ok
           : code == StatusCode::ABORTED   ? aborted
           : code == StatusCode::CANCELLED ? cancelled
                                           : other);
      }
    });
  }
  for (auto& client : clients) client.join();
  engine.join();
  EXPECT_EQ(ok, 67);
  EXPECT_EQ(aborted, 67);
  EXPECT_EQ(cancelled, 66);
  EXPECT_EQ(other, 0);
  server_->Shutdown(absl::Now() + absl::Seconds(10));
  EXPECT_EQ(RpcCount("GenerateStream", "OK"), 67);
  EXPECT_EQ(RpcCount("GenerateStream", "ABORTED"), 67);
  EXPECT_EQ(RpcCount("GenerateStream", "CANCELLED"), 66);
}

TEST_F(GenerateTest, ShutdownEndsOpenCallsWithTheEnginesStatus) {
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  engine_.AbortAll(absl::UnavailableError("the server is shutting down"));
  engine_.End(call, engine_.AwaitCancelled("r1"));
  server_->Shutdown(absl::Now() + absl::Seconds(10));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "the server is shutting down");
}

}  // namespace
}  // namespace parallax::server
