// RpcFixture: the real gRPC server on a free port, over a FakeEngine.
#ifndef PARALLAX_TESTS_SERVER_RPC_FIXTURE_H_
#define PARALLAX_TESTS_SERVER_RPC_FIXTURE_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "parallax/v1/admin.grpc.pb.h"
#include "parallax/v1/inference.grpc.pb.h"
#include "prometheus/text_serializer.h"
#include "server/application.h"
#include "tests/server/fake_engine.h"

namespace parallax::server {

class RpcFixture : public testing::Test {
 protected:
  RpcFixture() {
    config_.model = "fake";
    config_.listen = "127.0.0.1:0";
    config_.admin_listen = "127.0.0.1:0";
    environment_.engine = &engine_;
    environment_.authenticator = authenticator_.get();
    environment_.metrics = &metrics_;
    environment_.logger = &logger_;
    environment_.dispatcher = &dispatcher_;
    environment_.reply_dispatcher = &dispatcher_;
    environment_.open_calls = &open_calls_;
    environment_.model.name = "fake";
    environment_.model.vocab_size = 1000;
    environment_.model.max_context_tokens = 256;
    environment_.limits = {
        .max_prompt_tokens = 200,
        .max_choices = 8,
        .max_response_bytes = 64 << 10,
        .max_concurrent_streams = 77};
    environment_.outbox_bytes = 64 << 10;
  }

  void StartServer() {
    auto server = GrpcServer::Start(config_, &environment_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(server_->port()); }

  std::shared_ptr<grpc::Channel> Channel(
      grpc::ChannelArguments arguments = grpc::ChannelArguments()) {
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments);
  }
  std::unique_ptr<v1::InferenceService::Stub> Stub() {
    return v1::InferenceService::NewStub(Channel());
  }
  std::unique_ptr<v1::AdminService::Stub> AdminStub() {
    return v1::AdminService::NewStub(grpc::CreateChannel(
        "127.0.0.1:" + std::to_string(server_->admin_port()), grpc::InsecureChannelCredentials()));
  }

  static v1::GenerateRequest TokenRequest(const std::string& id, int max_tokens = 16) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    for (const int token : {1, 2, 3}) request.mutable_token_ids()->add_ids(token);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    return request;
  }

  static OutputDelta TokenDelta(int choice, std::vector<int32_t> ids, bool finish = false) {
    OutputDelta delta;
    delta.choice = choice;
    delta.token_ids = std::move(ids);
    if (finish) {
      delta.finish = ChoiceFinish{.reason = FinishReason::kLength,
                                  .matched_stop_string = {},
                                  .matched_stop_token = {},
                                  .prompt_tokens = 3,
                                  .completion_tokens = 2,
                                  .timings = {}};
    }
    return delta;
  }

  std::string MetricsText() const {
    return prometheus::TextSerializer().Serialize(metrics_.Collect());
  }
  /// grpc_requests_total of one method and code.
  /// Of a sample without labels but the model's.
  double MetricValue(const std::string& name) const {
    const std::string series = name + "{model_name=\"fake\"} ";
    const std::string text = MetricsText();
    const size_t begin = text.find(series);
    return begin == std::string::npos ? -1 : std::stod(text.substr(begin + series.size()));
  }
  int RpcCount(const std::string& method, const std::string& code) const {
    const std::string series = "parallax:grpc_requests_total{model_name=\"fake\",method=\"" +
                               method + "\",code=\"" + code + "\"} ";
    const std::string text = MetricsText();
    const size_t begin = text.find(series);
    return begin == std::string::npos ? 0 : std::stoi(text.substr(begin + series.size()));
  }

  ServerConfig config_;
  const Logger logger_{LogLevel::kError};
  ServerMetrics metrics_{"fake"};
  std::unique_ptr<Authenticator> authenticator_ = Authenticator::Anonymous();
  WriteDispatcher dispatcher_{1};
  OpenCalls open_calls_{absl::Seconds(2)};
  CallEnvironment environment_;
  FakeEngine engine_;
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace parallax::server

#endif  // PARALLAX_TESTS_SERVER_RPC_FIXTURE_H_
