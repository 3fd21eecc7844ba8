// What is around the inference calls: health, reflection, admin, tokens, limits, pings.
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "tests/server/rpc_fixture.h"

namespace parallax::server {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GrpcServerTest : public RpcFixture {
 protected:
  // A unary call by name with raw bytes: health and reflection have no generated stubs here.
  grpc::Status RawCall(const std::string& method, const std::string& request,
                       std::string* response) {
    grpc::GenericStub stub(Channel());
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::Slice slice(request);
    grpc::ByteBuffer buffer(&slice, 1), reply;
    auto call = stub.PrepareUnaryCall(&context, method, buffer, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&reply, &status, this);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    if (status.ok()) {
      std::vector<grpc::Slice> slices;
      EXPECT_TRUE(reply.Dump(&slices).ok());
      for (const grpc::Slice& part : slices) {
        response->append(reinterpret_cast<const char*>(part.begin()), part.size());
      }
    }
    return status;
  }
  // grpc.health.v1: 1 = SERVING, 2 = NOT_SERVING; -1: the call failed.
  int Health(const std::string& service) {
    std::string request;
    if (!service.empty()) request = "\x0a" + std::string(1, char(service.size())) + service;
    std::string response;
    if (!RawCall("/grpc.health.v1.Health/Check", request, &response).ok()) return -1;
    return response.size() == 2 && response[0] == 8 ? response[1] : -1;
  }
};

constexpr char kServiceName[] = "parallax.v1.InferenceService";

TEST_F(GrpcServerTest, HealthFollowsTheEngine) {
  config_.stall_timeout = absl::Milliseconds(40);
  StartServer();
  EXPECT_EQ(Health(""), 1);
  EXPECT_EQ(Health(kServiceName), 1);
  EXPECT_EQ(Health("no.such.Service"), -1);

  EngineStats stuck;
  stuck.idle = false;
  stuck.last_progress = absl::Now() - absl::Seconds(1);
  engine_.SetStats(stuck);
  server_->health().Refresh();
  EXPECT_EQ(Health(""), 2);
  EXPECT_EQ(Health(kServiceName), 2);
  engine_.SetStats(EngineStats());
  server_->health().Refresh();
  EXPECT_EQ(Health(""), 1);
}

TEST_F(GrpcServerTest, ReflectionListsTheServices) {
  StartServer();
  grpc::GenericStub stub(Channel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  const auto await = [&] { return queue.Next(&tag, &ok) && ok; };
  auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(this);
  ASSERT_TRUE(await());
  grpc::Slice slice(std::string("\x3a\x00", 2));  // list_services: ""
  grpc::ByteBuffer request(&slice, 1), reply;
  call->Write(request, this);
  ASSERT_TRUE(await());
  call->Read(&reply, this);
  ASSERT_TRUE(await());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(reply.Dump(&slices).ok());
  std::string text;
  for (const auto& s : slices) text.append(reinterpret_cast<const char*>(s.begin()), s.size());
  EXPECT_THAT(text, HasSubstr(kServiceName));
  EXPECT_THAT(text, HasSubstr("grpc.health.v1.Health"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("AdminService"))) << "not on the public port";
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, this);
  queue.Next(&tag, &ok);
}

TEST_F(GrpcServerTest, AdminReportsAndOperates) {
  StartServer();
  EngineStats stats;
  stats.steps = 12;
  stats.tokens_generated = 34;
  stats.gauges.pages_total = 56;
  engine_.SetStats(stats);
  const auto admin = AdminStub();
  {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    ASSERT_TRUE(admin->GetStats(&context, v1::GetStatsRequest(), &response).ok());
    EXPECT_TRUE(response.healthy());
    EXPECT_EQ(response.steps(), 12u);
    EXPECT_EQ(response.tokens_generated(), 34u);
    EXPECT_EQ(response.pages_total(), 56);
  }
  {
    grpc::ClientContext context;
    v1::FlushPrefixCacheResponse response;
    ASSERT_TRUE(admin->FlushPrefixCache(&context, v1::FlushPrefixCacheRequest(), &response).ok());
    EXPECT_EQ(response.pages_freed(), 17);
  }
  const auto stub = Stub();
  grpc::ClientContext stream_context;
  auto reader = stub->GenerateStream(&stream_context, TokenRequest("live"));
  const auto call = engine_.AwaitSubmitted();
  {
    grpc::ClientContext context;
    v1::AbortRequest request;
    request.add_request_ids("live");
    request.add_request_ids("none");
    v1::AbortResponse response;
    ASSERT_TRUE(admin->Abort(&context, request, &response).ok());
    EXPECT_THAT(response.aborted(), ElementsAre("live"));
    EXPECT_THAT(response.not_found(), ElementsAre("none"));
  }
  engine_.End(call, engine_.AwaitCancelled("live"));
  EXPECT_EQ(reader->Finish().error_message(), "aborted by an operator");
}

TEST_F(GrpcServerTest, DrainRefusesNewWorkAndWaitsForTheRest) {
  StartServer();
  const auto stub = Stub();
  const auto admin = AdminStub();
  grpc::ClientContext stream_context;
  auto reader = stub->GenerateStream(&stream_context, TokenRequest("live"));
  const auto call = engine_.AwaitSubmitted();
  const auto drain = [&](int64_t timeout_ms, v1::DrainResponse* response) {
    grpc::ClientContext context;
    v1::DrainRequest request;
    request.set_timeout_ms(timeout_ms);
    return admin->Drain(&context, request, response);
  };
  v1::DrainResponse response;
  ASSERT_TRUE(drain(0, &response).ok());
  EXPECT_FALSE(response.drained());
  EXPECT_EQ(Health(""), 2);
  grpc::ClientContext refused;
  EXPECT_EQ(stub->GenerateStream(&refused, TokenRequest("late"))->Finish().error_code(),
            StatusCode::UNAVAILABLE);
  EXPECT_EQ(drain(-1, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(drain(3'600'001, &response).error_code(), StatusCode::INVALID_ARGUMENT);

  std::thread engine([&] { engine_.End(call, absl::OkStatus()); });
  ASSERT_TRUE(drain(60'000, &response).ok());
  EXPECT_TRUE(response.drained());
  engine.join();
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, TokensNameTheCallerAndLimitIt) {
  const std::string path = testing::TempDir() + "/rpc_tokens_" + std::to_string(getpid());
  std::ofstream(path) << "alice secret-a max_concurrent=1\nbob secret-b\n";
  authenticator_ = *Authenticator::FromFile(path);
  std::filesystem::remove(path);
  environment_.authenticator = authenticator_.get();
  StartServer();
  const auto stub = Stub();
  const auto authorize = [](grpc::ClientContext* context, const std::string& token) {
    context->AddMetadata("authorization", "Bearer " + token);
  };
  grpc::ClientContext without;
  EXPECT_EQ(stub->GenerateStream(&without, TokenRequest("a"))->Finish().error_code(),
            StatusCode::UNAUTHENTICATED);
  grpc::ClientContext twice;
  authorize(&twice, "secret-a");
  authorize(&twice, "secret-b");
  EXPECT_EQ(stub->GenerateStream(&twice, TokenRequest("a"))->Finish().error_code(),
            StatusCode::UNAUTHENTICATED);

  grpc::ClientContext first;
  authorize(&first, "secret-a");
  auto reader = stub->GenerateStream(&first, TokenRequest("a"));
  const auto call = engine_.AwaitSubmitted();
  EXPECT_EQ(call.request.principal, "alice");
  grpc::ClientContext second;
  authorize(&second, "secret-a");
  EXPECT_EQ(stub->GenerateStream(&second, TokenRequest("b"))->Finish().error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(second.GetServerTrailingMetadata().count("retry-after-ms"), 1u);

  // Bob cannot end Alice's request.
  grpc::ClientContext bob;
  authorize(&bob, "secret-b");
  v1::AbortRequest abort;
  abort.add_request_ids("a");
  v1::AbortResponse aborted;
  ASSERT_TRUE(stub->Abort(&bob, abort, &aborted).ok());
  EXPECT_THAT(aborted.not_found(), ElementsAre("a"));

  // The place is free by the time the client can know that its request ended.
  engine_.End(call, absl::OkStatus());
  EXPECT_TRUE(reader->Finish().ok());
  grpc::ClientContext third;
  authorize(&third, "secret-a");
  auto next = stub->GenerateStream(&third, TokenRequest("c"));
  engine_.End(engine_.AwaitSubmitted(), absl::OkStatus());
  EXPECT_TRUE(next->Finish().ok());
}

TEST_F(GrpcServerTest, OversizedMessagesAreRefused) {
  config_.max_message_bytes = 4096;
  StartServer();
  v1::GenerateRequest request;
  request.set_text(std::string(10'000, 'x'));
  grpc::ClientContext context;
  EXPECT_EQ(Stub()->GenerateStream(&context, request)->Finish().error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
}

// Every byte of a text is a token of 100 bytes, or, with id 1, of one that is no character.
class LongTokenizer final : public Tokenizer {
 public:
  LongTokenizer() : Tokenizer(Table(), LeadingSpace::kKeep, std::nullopt, std::nullopt) {}
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool) const override {
    return std::vector<int32_t>(text.size(), 0);
  }

 private:
  static TokenTable Table() {
    const std::vector<parallax::TokenEntry> entries = {{std::string(100, 'w'), true, false, false},
                                                       {"\xff", true, false, false}};
    return TokenTable(entries);
  }
};

TEST_F(GrpcServerTest, RepliesOfTheTokenizerAreBounded) {
  const LongTokenizer tokenizer;
  environment_.model.tokenizer = &tokenizer;
  StartServer();
  const auto stub = Stub();
  const auto tokenize = [&](size_t bytes) {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text(std::string(bytes, 'x'));
    v1::TokenizeResponse response;
    const grpc::Status status = stub->Tokenize(&context, request, &response);
    EXPECT_LE(response.ByteSizeLong(), environment_.limits.max_response_bytes);
    return status;
  };
  EXPECT_TRUE(tokenize(500).ok());
  const grpc::Status refused = tokenize(1000);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("more than 65536 bytes"));

  const auto detokenize = [&](int32_t id, int count) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    for (int i = 0; i < count; ++i) request.add_token_ids(id);
    v1::DetokenizeResponse response;
    return stub->Detokenize(&context, request, &response).error_code();
  };
  EXPECT_EQ(detokenize(0, 500), grpc::StatusCode::OK);
  EXPECT_EQ(detokenize(0, 1000), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(detokenize(1, 20'000), grpc::StatusCode::OK);
  EXPECT_EQ(detokenize(1, 30'000), grpc::StatusCode::RESOURCE_EXHAUSTED) << "U+FFFD is three bytes";
}

TEST_F(GrpcServerTest, WithoutTokenizerTextIsRefusedAndInfoSaysSo) {
  StartServer();
  const auto stub = Stub();
  grpc::ClientContext tokenize_context, detokenize_context, info_context;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hi");
  v1::TokenizeResponse tokens;
  EXPECT_EQ(stub->Tokenize(&tokenize_context, tokenize, &tokens).error_code(),
            StatusCode::FAILED_PRECONDITION);
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids(1);
  v1::DetokenizeResponse text;
  EXPECT_EQ(stub->Detokenize(&detokenize_context, detokenize, &text).error_code(),
            StatusCode::FAILED_PRECONDITION);
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(stub->GetModelInfo(&info_context, v1::GetModelInfoRequest(), &info).ok());
  EXPECT_EQ(info.name(), "fake");
  EXPECT_FALSE(info.has_tokenizer());
  EXPECT_EQ(info.max_prompt_tokens(), 200);
  EXPECT_EQ(info.max_concurrent_streams(), 77);
  EXPECT_FALSE(info.server_version().empty());
}

// A server answers pings that come too often with GOAWAY "too_many_pings", and the client
// loses its connection. gRPC's client pings once a second at most: one server allows that,
// the other one does not, and both get the same pings with no call open.
TEST_F(GrpcServerTest, PingsWithoutCallsAreAcceptedAtTheAllowedRate) {
  EXPECT_LE(config_.min_ping_interval, absl::Seconds(5)) << "a ping every 10 s must pass";
  config_.min_ping_interval = absl::Milliseconds(500);
  StartServer();
  ServerConfig strict_config = config_;
  strict_config.min_ping_interval = absl::Hours(1);
  const auto strict_server = GrpcServer::Start(strict_config, &environment_);
  ASSERT_TRUE(strict_server.ok()) << strict_server.status();

  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  const auto allowed = Channel(arguments);
  const auto punished =
      grpc::CreateCustomChannel("127.0.0.1:" + std::to_string((*strict_server)->port()),
                                grpc::InsecureChannelCredentials(), arguments);
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(30);
  ASSERT_TRUE(allowed->WaitForConnected(deadline));
  ASSERT_TRUE(punished->WaitForConnected(deadline));
  EXPECT_TRUE(punished->WaitForStateChange(GRPC_CHANNEL_READY, deadline)) << "not enforced";
  EXPECT_EQ(allowed->GetState(/*try_to_connect=*/false), GRPC_CHANNEL_READY);
}

TEST_F(GrpcServerTest, AnAddressInUseIsNamed) {
  StartServer();
  ServerConfig second = config_;
  second.listen = address();
  const auto server = GrpcServer::Start(second, &environment_);
  ASSERT_FALSE(server.ok());
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("--listen"));
  EXPECT_THAT(std::string(server.status().message()), HasSubstr(address()));
}

// With the detector on, an inverted order ends the process.
TEST_F(GrpcServerTest, AbseilsDeadlockDetectorIsOff) {
  StartServer();
  absl::Mutex first, second;
  for (const auto& [outer, inner] : {std::pair(&first, &second), std::pair(&second, &first)}) {
    absl::MutexLock outer_lock(outer);
    absl::MutexLock inner_lock(inner);
  }
}

}  // namespace
}  // namespace parallax::server
