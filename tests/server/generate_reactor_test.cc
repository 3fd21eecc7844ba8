// What the engine's thread may rely on: a sink never makes it wait for the encoder.
#include "server/generate_reactor.h"

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/rpc_fixture.h"

namespace parallax::server {
namespace {

using grpc::StatusCode;

// Where an encoder stands still until it is let go.
class Gate {
 public:
  void Pass() {
    MutexLock lock(&mutex_);
    entered_ = true;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(&mutex_);
  }
  void AwaitEntered() {
    MutexLock lock(&mutex_);
    while (!entered_) changed_.Wait(&mutex_);
  }
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool entered_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool open_ PARALLAX_GUARDED_BY(mutex_) = false;
};

class SlowEncoder {
 public:
  using Message = v1::GenerateChunk;

  explicit SlowEncoder(Gate* gate) : gate_(gate) {}

  absl::Status Add(OutputChunk chunk) {
    gate_->Pass();
    chunk_ = std::move(chunk);
    return absl::OkStatus();
  }
  bool Next(Message* message) {
    if (!chunk_.has_value()) return false;
    message->Clear();
    for (const int32_t id : chunk_->delta.token_ids) message->add_token_ids(id);
    chunk_.reset();
    return true;
  }
  bool streams() const { return true; }
  bool empty() const { return !chunk_.has_value(); }
  void Clear() { chunk_.reset(); }

 private:
  Gate* gate_;
  std::optional<OutputChunk> chunk_;
};

class SlowService final : public v1::InferenceService::CallbackService {
 public:
  SlowService(const CallEnvironment* environment, Gate* gate)
      : environment_(*environment), gate_(gate) {}

  grpc::ServerWriteReactor<v1::GenerateChunk>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* wire) override {
    GenerateCall call(RpcMethod::kGenerateStream, context, &environment_, wire->request_id());
    EXPECT_TRUE(call.Admit().ok());
    Request request = *call.Build(*wire);
    return GenerateReactor<SlowEncoder>::Start(std::move(call), std::move(request),
                                               SlowEncoder(gate_));
  }

 private:
  const CallEnvironment& environment_;
  Gate* gate_;
};

class GenerateReactorTest : public RpcFixture {
 protected:
  GenerateReactorTest() : service_(&environment_, &gate_) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    slow_server_ = builder.BuildAndStart();
    stub_ = v1::InferenceService::NewStub(grpc::CreateChannel(
        "127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  }

  // Whether `step` comes back while an encoder stands at the gate. Opens it in any case.
  bool ReturnsMeanwhile(std::function<void()> step) {
    gate_.AwaitEntered();
    std::future<void> done = std::async(std::launch::async, std::move(step));
    const bool returned = done.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    gate_.Open();
    done.wait();
    return returned;
  }

  Gate gate_;
  SlowService service_;
  std::unique_ptr<grpc::Server> slow_server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(GenerateReactorTest, TheEngineDoesNotWaitForTheEncoder) {
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnDelta(TokenDelta(0, {7}));
  EXPECT_TRUE(ReturnsMeanwhile([&] {
    call.sink->OnDelta(TokenDelta(0, {8}));
    call.sink->OnDelta(TokenDelta(0, {9}, /*finish=*/true));
    engine_.End(call, absl::OkStatus());
  }));
  std::vector<int32_t> ids;
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
    ids.insert(ids.end(), chunk.token_ids().begin(), chunk.token_ids().end());
  }
  EXPECT_EQ(ids, (std::vector<int32_t>{7, 8, 9}));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateReactorTest, WhatWasEncodedForAClientThatWentAwayIsDropped) {
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, TokenRequest("r1"));
  const auto call = engine_.AwaitSubmitted();
  call.sink->OnDelta(TokenDelta(0, {7}));
  EXPECT_TRUE(ReturnsMeanwhile([&] {
    context.TryCancel();
    engine_.End(call, engine_.AwaitCancelled("r1"));
  }));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  slow_server_->Shutdown();
  EXPECT_EQ(RpcCount("GenerateStream", "CANCELLED"), 1);
}

}  // namespace
}  // namespace parallax::server
