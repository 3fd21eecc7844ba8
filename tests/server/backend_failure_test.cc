// A backend that breaks, seen from outside the process: the request it ran for ends with INTERNAL,
// health turns NOT_SERVING, and the process exits with a status that a supervisor restarts on.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "parallax/v1/inference.grpc.pb.h"
#include "server/serve.h"
#include "tests/engine/fake_model_runner.h"

namespace parallax::server {
namespace {

using ::testing::HasSubstr;

constexpr int kGoodSteps = 5;

absl::StatusOr<LoadedModel> LoadBreakingModel(const ServerConfig& config) {
  auto model = std::make_shared<FakeModel>();
  model->FailCollect(kGoodSteps);
  RunnerLimits limits;
  limits.vocab_size = 512;
  limits.max_context_tokens = 2048;
  limits.max_num_seqs = config.max_num_seqs;
  limits.max_num_batched_tokens = config.max_num_batched_tokens;
  limits.num_pages = 256;
  limits.page_bytes = 64;
  limits.max_steps_in_flight = 2;
  LoadedModel loaded;
  loaded.runner = std::make_unique<FakeModelRunner>(limits, std::move(model));
  loaded.served.name = "breaking";
  loaded.served.vocab_size = limits.vocab_size;
  loaded.served.max_context_tokens = limits.max_context_tokens;
  return loaded;
}

// A process that serves; this one has no thread yet when it is made.
class ServerProcess {
 public:
  ServerProcess() {
    int ends[2];
    if (pipe(ends) != 0) return;
    fflush(nullptr);  // the child writes none of it again
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(ends[1], STDOUT_FILENO);
      const std::vector<std::string_view> args = {"--model=null", "--listen=127.0.0.1:0",
                                                  "--admin-listen=127.0.0.1:0",
                                                  "--metrics-listen=", "--log-level=error"};
      _exit(Serve(*ParseServerConfig(args), LoadBreakingModel));
    }
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  ~ServerProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      AwaitExit();
    }
    fclose(output_);
  }

  int AwaitPort() {
    char line[256] = {};
    if (fgets(line, sizeof(line), output_) == nullptr) return 0;
    return nlohmann::json::parse(line)["port"];
  }
  int AwaitExit() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  FILE* output_ = nullptr;
};

// grpc.health.v1.Health/Watch of the whole server, by hand: no stubs of it are generated here.
class HealthWatch {
 public:
  explicit HealthWatch(const std::shared_ptr<grpc::Channel>& channel) : stub_(channel) {
    call_ = stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_);
    call_->StartCall(nullptr);
    Await();
    const grpc::Slice empty("");
    call_->WriteLast(grpc::ByteBuffer(&empty, 1), grpc::WriteOptions(), nullptr);
    Await();
  }
  ~HealthWatch() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  /// The next status: 1 = SERVING, 2 = NOT_SERVING; -1 when there is none any more.
  int Next() {
    grpc::ByteBuffer message;
    call_->Read(&message, nullptr);
    if (!Await()) return -1;
    std::vector<grpc::Slice> slices;
    if (!message.Dump(&slices).ok() || slices.empty() || slices[0].size() != 2) return -1;
    return slices[0].begin()[1];  // field 1, a varint
  }

 private:
  bool Await() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

TEST(BackendFailure, EndsInNotServingAndAStatusToRestartOn) {
  ServerProcess process;
  const int port = process.AwaitPort();
  ASSERT_GT(port, 0);
  const auto channel =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());
  HealthWatch health(channel);
  EXPECT_EQ(health.Next(), 1);

  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(20);
  request.mutable_stopping()->set_max_tokens(10 * kGoodSteps);
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status =
      v1::InferenceService::NewStub(channel)->Generate(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("the backend failed"));

  EXPECT_EQ(health.Next(), 2);
  EXPECT_EQ(process.AwaitExit(), kFailed);
}

}  // namespace
}  // namespace parallax::server
