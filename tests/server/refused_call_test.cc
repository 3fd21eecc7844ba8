// Calls that never reach the engine: what the caller gets and what the log says, on both services.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/server/rpc_fixture.h"
#include "vllm/vllm_engine.grpc.pb.h"

namespace parallax::server {
namespace {

namespace wire = ::vllm::grpc::engine;
using grpc::StatusCode;
using ::testing::HasSubstr;

constexpr char kTraceparent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

class RefusedCallTest : public RpcFixture {
 protected:
  RefusedCallTest() : log_(std::tmpfile()), file_logger_(LogLevel::kInfo, fileno(log_)) {
    environment_.logger = &file_logger_;
  }
  ~RefusedCallTest() override {
    server_.reset();
    std::fclose(log_);
  }

  // Asks for tokens: alice may call once, bob as often as he likes.
  void StartServerWithTokens() {
    const std::string path = testing::TempDir() + "/refused_" + std::to_string(getpid());
    std::ofstream(path) << "alice secret-a max_requests_per_second=0.001\nbob secret-b\n";
    auto authenticator = Authenticator::FromFile(path);
    ASSERT_TRUE(authenticator.ok()) << authenticator.status();
    authenticator_ = *std::move(authenticator);
    environment_.authenticator = authenticator_.get();
    std::filesystem::remove(path);
    StartServer();
  }

  struct Answer {
    grpc::Status status;
    std::map<std::string, std::string> trailing;
  };

  // A call by each of the three methods that generate.
  std::map<std::string, Answer> CallAll(const std::string& token, const v1::GenerateRequest& own,
                                        const wire::GenerateRequest& gateway) {
    std::map<std::string, Answer> answers;
    const auto call = [&](const std::string& method, auto perform) {
      grpc::ClientContext context;
      context.AddMetadata("traceparent", kTraceparent);
      if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
      Answer& answer = answers[method];
      answer.status = perform(&context);
      for (const auto& [key, value] : context.GetServerTrailingMetadata()) {
        answer.trailing[std::string(key.data(), key.size())] =
            std::string(value.data(), value.size());
      }
    };
    const auto stub = Stub();
    const auto engine = wire::VllmEngine::NewStub(Channel());
    call("Generate", [&](grpc::ClientContext* context) {
      v1::GenerateResponse response;
      return stub->Generate(context, own, &response);
    });
    call("GenerateStream", [&](grpc::ClientContext* context) {
      return stub->GenerateStream(context, own)->Finish();
    });
    call("VllmGenerate", [&](grpc::ClientContext* context) {
      return engine->Generate(context, gateway)->Finish();
    });
    return answers;
  }

  // The last line of each method.
  std::map<std::string, nlohmann::json> Lines() {
    std::map<std::string, nlohmann::json> lines;
    std::rewind(log_);
    std::string line;
    for (int c; (c = std::fgetc(log_)) != EOF;) {
      line += static_cast<char>(c);
      if (c != '\n') continue;
      const nlohmann::json parsed = nlohmann::json::parse(line);
      if (parsed.contains("method")) lines[parsed["method"]] = parsed;
      line.clear();
    }
    return lines;
  }

  // Every method's answer and line are those of one refused request.
  void ExpectRefused(const std::map<std::string, Answer>& answers, StatusCode code,
                     const std::string& code_name, const std::string& principal) {
    const auto lines = Lines();
    ASSERT_EQ(answers.size(), 3u);
    for (const auto& [method, answer] : answers) {
      SCOPED_TRACE(method);
      EXPECT_EQ(answer.status.error_code(), code) << answer.status.error_message();
      ASSERT_TRUE(lines.contains(method));
      const nlohmann::json& line = lines.at(method);
      EXPECT_EQ(line["event"], "request_ended");
      EXPECT_EQ(line["level"], "info");
      EXPECT_EQ(line["code"], code_name);
      EXPECT_EQ(line["principal"], principal);
      EXPECT_EQ(line["traceparent"], kTraceparent);
      EXPECT_EQ(line["finish_reason"], "none");
      EXPECT_THAT(std::string(line["peer"]), HasSubstr("127.0.0.1"));
      ASSERT_TRUE(answer.trailing.contains("x-request-id"));
      EXPECT_EQ(line["request_id"], answer.trailing.at("x-request-id"));
      ASSERT_TRUE(answer.trailing.contains("traceparent"));
      EXPECT_EQ(answer.trailing.at("traceparent"), kTraceparent);
    }
  }

  static wire::GenerateRequest GatewayRequest(const std::string& id) {
    wire::GenerateRequest request;
    request.set_request_id(id);
    for (const uint32_t token : {1u, 2u, 3u}) request.mutable_tokenized()->add_input_ids(token);
    return request;
  }

  std::FILE* const log_;
  const Logger file_logger_;
};

TEST_F(RefusedCallTest, BadArguments) {
  StartServer();
  v1::GenerateRequest own = TokenRequest("mine");
  own.mutable_sampling()->set_top_p(7);
  wire::GenerateRequest gateway = GatewayRequest("mine");
  gateway.mutable_sampling_params()->set_top_p(7);
  const auto answers = CallAll("", own, gateway);
  ExpectRefused(answers, StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT", "anonymous");
  for (const auto& [method, answer] : answers) {
    EXPECT_EQ(answer.trailing.at("x-request-id"), "mine") << method;
  }
}

TEST_F(RefusedCallTest, AnIdThatIsNotAllowedIsNeitherEchoedNorLogged) {
  StartServer();
  const std::string hostile = "x\"}\n{\"event\":\"forged\"}";
  const auto answers = CallAll("", TokenRequest(hostile), GatewayRequest(hostile));
  ExpectRefused(answers, StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT", "anonymous");
  for (const auto& [method, answer] : answers) {
    EXPECT_EQ(answer.trailing.at("x-request-id").size(), 32u) << method << ": the server's own";
  }
}

TEST_F(RefusedCallTest, NoToken) {
  StartServerWithTokens();
  ExpectRefused(CallAll("", TokenRequest("mine"), GatewayRequest("mine")),
                StatusCode::UNAUTHENTICATED, "UNAUTHENTICATED", "");
}

TEST_F(RefusedCallTest, OverTheCallersRate) {
  StartServerWithTokens();
  v1::GenerateRequest bad = TokenRequest("first");  // it counts, too
  bad.mutable_sampling()->set_top_p(7);
  const auto answers = CallAll("secret-a", bad, GatewayRequest("mine"));
  EXPECT_EQ(answers.at("Generate").status.error_code(), StatusCode::INVALID_ARGUMENT);
  const auto again = CallAll("secret-a", TokenRequest("mine"), GatewayRequest("mine"));
  ExpectRefused(again, StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", "alice");
  for (const auto& [method, answer] : again) {
    EXPECT_TRUE(answer.trailing.contains("retry-after-ms")) << method;
  }
}

TEST_F(RefusedCallTest, ABadRequestOfAGatewayCountsAgainstItsRate) {
  StartServerWithTokens();
  const auto engine = wire::VllmEngine::NewStub(Channel());
  wire::GenerateRequest bad = GatewayRequest("bad");
  bad.mutable_sampling_params()->set_regex("x");
  std::vector<StatusCode> codes;
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer secret-a");
    codes.push_back(engine->Generate(&context, bad)->Finish().error_code());
  }
  EXPECT_THAT(codes,
              testing::ElementsAre(StatusCode::UNIMPLEMENTED, StatusCode::RESOURCE_EXHAUSTED));
}

TEST_F(RefusedCallTest, CallsThatDoNotGenerateAreLoggedOnlyIfRefused) {
  StartServerWithTokens();
  const auto stub = Stub();
  for (const bool allowed : {true, false}) {
    grpc::ClientContext context;
    context.AddMetadata("traceparent", kTraceparent);
    if (allowed) context.AddMetadata("authorization", "Bearer secret-b");
    v1::GetModelInfoResponse response;
    const grpc::Status status = stub->GetModelInfo(&context, v1::GetModelInfoRequest(), &response);
    EXPECT_EQ(status.ok(), allowed);
    EXPECT_EQ(context.GetServerTrailingMetadata().count("traceparent"), 1u);
    const auto lines = Lines();
    ASSERT_EQ(lines.contains("GetModelInfo"), !allowed);
    if (allowed) continue;
    EXPECT_EQ(lines.at("GetModelInfo")["code"], "UNAUTHENTICATED");
    EXPECT_EQ(lines.at("GetModelInfo")["traceparent"], kTraceparent);
    EXPECT_EQ(lines.at("GetModelInfo")["principal"], "");
  }
}

TEST_F(RefusedCallTest, CallsThatDoNotGenerateAreLoggedWithTheirCaller) {
  StartServerWithTokens();
  const auto stub = Stub();
  grpc::Status status;
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer secret-a");
    v1::TokenizeResponse response;
    status = stub->Tokenize(&context, v1::TokenizeRequest(), &response);
  }
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Lines().at("Tokenize")["principal"], "alice");
}

}  // namespace
}  // namespace parallax::server
