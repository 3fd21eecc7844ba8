// The whole server with the real engine and the null model: overload, accounts, stopping.
#include "server/application.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "parallax/v1/admin.grpc.pb.h"
#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::server {
namespace {

using grpc::StatusCode;
using StopResult = Application::StopResult;
using ::testing::HasSubstr;

class ApplicationTest : public testing::Test {
 protected:
  void StartServer(std::vector<std::string_view> extra) {
    std::vector<std::string_view> args = {"--model=null", "--listen=127.0.0.1:0",
                                          "--admin-listen=127.0.0.1:0",
                                          "--metrics-listen=", "--log-level=error"};
    args.insert(args.end(), extra.begin(), extra.end());
    const auto config = ParseServerConfig(args);
    ASSERT_TRUE(config.ok()) << config.status();
    auto app = Application::Start(*config, &logger_);
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    const auto ready = nlohmann::json::parse(app_->ReadyLine());
    const auto channel = [](int port) {
      return grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                                 grpc::InsecureChannelCredentials());
    };
    stub_ = v1::InferenceService::NewStub(channel(ready["port"]));
    admin_ = v1::AdminService::NewStub(channel(ready["admin_port"]));
  }

  static v1::GenerateRequest TokenRequest(int prompt_tokens, int max_tokens) {
    v1::GenerateRequest request;
    for (int i = 0; i < prompt_tokens; ++i) request.mutable_token_ids()->add_ids(i + 1);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    return request;
  }

  v1::GetStatsResponse Stats() {
    grpc::ClientContext context;
    v1::GetStatsResponse stats;
    EXPECT_TRUE(admin_->GetStats(&context, v1::GetStatsRequest(), &stats).ok());
    return stats;
  }

  // Of the counters, or a histogram's values, of a family: of all, or of those with `labels`.
  double Sum(std::string_view name, std::vector<std::string_view> labels = {}) const {
    double sum = 0;
    for (const auto& family : app_->metrics().Collect()) {
      if (family.name != "parallax:" + std::string(name)) continue;
      for (const auto& metric : family.metric) {
        const bool counts = std::ranges::all_of(labels, [&](std::string_view value) {
          return std::ranges::any_of(metric.label, [&](const auto& l) { return l.value == value; });
        });
        if (counts) sum += metric.counter.value + metric.histogram.sample_sum;
      }
    }
    return sum;
  }

  const Logger logger_{LogLevel::kError};
  std::unique_ptr<Application> app_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

// One call of the overload test. A canceller cancels once it has had some chunks, so that the
// server has surely accepted it.
class LoadCall final : public grpc::ClientReadReactor<v1::GenerateChunk> {
 public:
  LoadCall(v1::InferenceService::Stub* stub, v1::GenerateRequest request, int cancel_after)
      : request_(std::move(request)), cancel_after_(cancel_after) {
    stub->async()->GenerateStream(&context_, &request_, this);
    StartRead(&chunk_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    tokens += chunk_.token_ids_size();
    if (chunk_.has_finish()) completion_tokens += chunk_.finish().usage().completion_tokens();
    if (cancel_after_ > 0 && --cancel_after_ == 0) context_.TryCancel();
    StartRead(&chunk_);
  }
  void OnDone(const grpc::Status& status) override { done_.set_value(status); }

  grpc::Status Await() { return done_.get_future().get(); }
  int prompt_tokens() const { return request_.token_ids().ids_size(); }

  int tokens = 0;
  int completion_tokens = 0;

 private:
  grpc::ClientContext context_;
  const v1::GenerateRequest request_;
  int cancel_after_;  // chunks; 0: never
  v1::GenerateChunk chunk_;
  std::promise<grpc::Status> done_;
};

// Ten times more calls than the server can run or queue, a fifth of them cancelled: every
// client gets an end, no page stays taken, and all books agree.
TEST_F(ApplicationTest, OverloadLosesNothing) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  StartServer({"--max-num-seqs=8", "--max-queued-requests=24", "--kv-cache-pages=96",
               "--max-num-batched-tokens=128", "--max-context-tokens=4096",
               "--outbox-bytes=64MiB"});
  constexpr int kCalls = 320;
  std::vector<std::unique_ptr<LoadCall>> calls;
  for (int i = 0; i < kCalls; ++i) {
    v1::GenerateRequest request =
        TokenRequest(1 + static_cast<int>(random() % 400), 1 + static_cast<int>(random() % 2000));
    request.mutable_sampling()->set_n(1 + static_cast<int>(random() % 2));
    const int cancel_after = random() % 5 == 0 ? 1 + static_cast<int>(random() % 3) : 0;
    calls.push_back(std::make_unique<LoadCall>(stub_.get(), std::move(request), cancel_after));
  }
  int ok = 0, cancelled = 0, exhausted = 0;
  int64_t ok_tokens = 0, accepted_prompt_tokens = 0;
  for (const auto& call : calls) {
    const grpc::Status status = call->Await();
    switch (status.error_code()) {
      case StatusCode::OK:
        ++ok;
        ok_tokens += call->completion_tokens;
        EXPECT_EQ(call->tokens, call->completion_tokens);
        break;
      case StatusCode::CANCELLED:
        ++cancelled;
        break;
      case StatusCode::RESOURCE_EXHAUSTED:
        ++exhausted;
        EXPECT_EQ(call->tokens, 0);
        break;
      default:
        ADD_FAILURE() << status.error_code() << ": " << status.error_message();
    }
    if (status.error_code() != StatusCode::RESOURCE_EXHAUSTED) {
      accepted_prompt_tokens += call->prompt_tokens();
    }
  }
  EXPECT_GT(ok, 0);
  EXPECT_GT(exhausted, 0) << "no overload: the test shows nothing";
  EXPECT_EQ(app_->Stop(), StopResult::kFinished);

  const EngineStats stats = app_->engine().Stats();
  EXPECT_EQ(stats.gauges.pages_used, 0);
  EXPECT_EQ(stats.gauges.requests_running, 0);
  EXPECT_EQ(stats.gauges.requests_waiting, 0);
  EXPECT_EQ(stats.requests_submitted, static_cast<uint64_t>(ok + cancelled));
  EXPECT_EQ(stats.requests_finished, stats.requests_submitted);
  EXPECT_EQ(stats.prompt_tokens, static_cast<uint64_t>(accepted_prompt_tokens));
  EXPECT_GE(stats.tokens_generated, static_cast<uint64_t>(ok_tokens));

  EXPECT_EQ(Sum("requests_submitted_total"), ok + cancelled);
  EXPECT_EQ(Sum("request_success_total"), ok + cancelled);
  EXPECT_EQ(Sum("requests_refused_total"), exhausted);
  EXPECT_EQ(Sum("grpc_requests_total"), kCalls);
  EXPECT_EQ(Sum("prompt_tokens_total"), static_cast<double>(accepted_prompt_tokens));
  EXPECT_EQ(Sum("generation_tokens_total"), static_cast<double>(stats.tokens_generated));
  EXPECT_EQ(Sum("request_generation_tokens"), static_cast<double>(stats.tokens_generated));
}

// A stream that the test reads as it pleases.
class LongCall {
 public:
  LongCall(v1::InferenceService::Stub* stub, v1::GenerateRequest request)
      : reader_(stub->GenerateStream(&context_, request)) {}

  void ReadOne() {
    ASSERT_TRUE(reader_->Read(&chunk_));
    tokens_ += chunk_.token_ids_size();
  }
  grpc::Status ReadToEnd() {
    while (reader_->Read(&chunk_)) tokens_ += chunk_.token_ids_size();
    return reader_->Finish();
  }
  int tokens() const { return tokens_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateChunk>> reader_;
  v1::GenerateChunk chunk_;
  int tokens_ = 0;
};

constexpr std::string_view kLongContext = "--max-context-tokens=400000";
constexpr std::string_view kManyPages = "--kv-cache-pages=7000";
constexpr std::string_view kManyMorePages = "--kv-cache-pages=56000";

// Eight choices as long as the context: seconds, whatever the machine.
v1::GenerateRequest Endless() {
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(1);
  request.mutable_stopping()->set_max_tokens(390'000);
  request.mutable_sampling()->set_n(8);
  return request;
}

TEST_F(ApplicationTest, StopLetsRunningRequestsFinishAndRefusesNewOnes) {
  StartServer({kLongContext, kManyPages, "--grace-period=60s", "--outbox-bytes=64MiB"});
  LongCall call(stub_.get(), TokenRequest(4, 100'000));
  call.ReadOne();
  std::future<StopResult> stopped = std::async(std::launch::async, [&] { return app_->Stop(); });
  const grpc::Status status = call.ReadToEnd();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(call.tokens(), 100'000);
  EXPECT_EQ(stopped.get(), StopResult::kFinished);
}

TEST_F(ApplicationTest, GracePeriodOverAbortsWithATerminalStatus) {
  StartServer({kLongContext, kManyMorePages, "--grace-period=20ms", "--outbox-bytes=64MiB"});
  LongCall call(stub_.get(), Endless());
  call.ReadOne();
  std::future<StopResult> stopped = std::async(std::launch::async, [&] { return app_->Stop(); });
  const grpc::Status status = call.ReadToEnd();
  EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "the server is shutting down");
  EXPECT_EQ(stopped.get(), StopResult::kAborted);
}

TEST_F(ApplicationTest, AbortRunningCutsTheGracePeriodShort) {
  StartServer({kLongContext, kManyMorePages, "--grace-period=1h", "--outbox-bytes=64MiB"});
  LongCall call(stub_.get(), Endless());
  call.ReadOne();
  std::future<StopResult> stopped = std::async(std::launch::async, [&] { return app_->Stop(); });
  EXPECT_TRUE(app_->AbortRunning());  // what a second SIGTERM does
  EXPECT_EQ(call.ReadToEnd().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(stopped.get(), StopResult::kAborted);
}

// Finished in the engine, and more than gRPC buffers.
constexpr int kManyTokens = 200'000;

class ReadersOfAStoppingServerTest : public ApplicationTest {
 protected:
  // Returns once the engine has nothing to do; the test has read one chunk.
  std::unique_ptr<LongCall> FinishUnread(std::string_view grace_period) {
    StartServer({kLongContext, kManyPages, grace_period, "--outbox-bytes=256MiB"});
    v1::GenerateRequest request = TokenRequest(4, kManyTokens);
    request.mutable_output()->set_logprobs(5);
    auto call = std::make_unique<LongCall>(stub_.get(), request);
    call->ReadOne();
    while (Stats().requests_finished() == 0) absl::SleepFor(absl::Milliseconds(10));
    return call;
  }

  double Counted(StatusCode code) const {
    return Sum("grpc_requests_total", {"GenerateStream", StatusCodeName(code)});
  }
};

TEST_F(ReadersOfAStoppingServerTest, HaveWhatIsLeftOfTheGracePeriod) {
  const auto call = FinishUnread("--grace-period=60s");
  std::future<StopResult> stopped = std::async(std::launch::async, [&] { return app_->Stop(); });
  EXPECT_EQ(stopped.wait_for(std::chrono::seconds(3)), std::future_status::timeout)
      << "it has an answer to give";
  const grpc::Status status = call->ReadToEnd();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(call->tokens(), kManyTokens);
  EXPECT_EQ(stopped.get(), StopResult::kFinished);
  EXPECT_EQ(Counted(StatusCode::OK), 1);
}

TEST_F(ReadersOfAStoppingServerTest, AreCutOffAtItsEndAndTheExitStatusSaysSo) {
  const auto call = FinishUnread("--grace-period=100ms");
  EXPECT_EQ(app_->Stop(), StopResult::kAborted);
  EXPECT_EQ(Counted(StatusCode::OK), 0);
  EXPECT_EQ(Counted(StatusCode::UNAVAILABLE), 1);
  EXPECT_FALSE(call->ReadToEnd().ok());
  EXPECT_LT(call->tokens(), kManyTokens);
}

TEST_F(ReadersOfAStoppingServerTest, AreNotWaitedForAfterASecondSignal) {
  const auto call = FinishUnread("--grace-period=1h");
  std::future<StopResult> stopped = std::async(std::launch::async, [&] { return app_->Stop(); });
  EXPECT_TRUE(app_->AbortRunning());
  EXPECT_EQ(stopped.get(), StopResult::kAborted);
  EXPECT_FALSE(call->ReadToEnd().ok());
}

TEST_F(ApplicationTest, SlowReaderHurtsOnlyItself) {
  StartServer({kLongContext, kManyPages, "--outbox-bytes=128KiB"});
  // Tens of megabytes, because gRPC itself buffers some of them on the client's side.
  v1::GenerateRequest bulky = TokenRequest(4, 100'000);
  bulky.mutable_output()->set_logprobs(20);
  LongCall slow(stub_.get(), bulky);
  LongCall quick(stub_.get(), TokenRequest(4, 200));
  EXPECT_TRUE(quick.ReadToEnd().ok());
  // Returns once nothing is live: once the server has given up on the slow one.
  v1::DrainRequest drain;
  drain.set_timeout_ms(60'000);
  v1::DrainResponse drained;
  grpc::ClientContext drain_context;
  ASSERT_TRUE(admin_->Drain(&drain_context, drain, &drained).ok());
  EXPECT_TRUE(drained.drained());
  const grpc::Status status = slow.ReadToEnd();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("reads too slowly"));
  EXPECT_EQ(app_->Stop(), StopResult::kFinished);
}

TEST_F(ApplicationTest, AdminSeesTheEngine) {
  StartServer({"--kv-cache-pages=128"});
  v1::GenerateResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Generate(&context, TokenRequest(130, 5), &response).ok());
  EXPECT_EQ(response.choices(0).token_ids_size(), 5);
  const v1::GetStatsResponse stats = Stats();
  EXPECT_TRUE(stats.healthy());
  EXPECT_EQ(stats.requests_finished(), 1u);
  EXPECT_EQ(stats.tokens_generated(), 5u);
  EXPECT_EQ(stats.prompt_tokens(), 130u);
  EXPECT_EQ(stats.pages_cached(), 2) << "two full pages of the prompt";
  grpc::ClientContext flush_context;
  v1::FlushPrefixCacheResponse flushed;
  ASSERT_TRUE(
      admin_->FlushPrefixCache(&flush_context, v1::FlushPrefixCacheRequest(), &flushed).ok());
  EXPECT_EQ(flushed.pages_freed(), 2);
  EXPECT_EQ(Stats().pages_cached(), 0);
}

TEST(ApplicationStartTest, ErrorsNameWhatIsWrong) {
  const auto error = [](std::vector<std::string_view> args) {
    args.insert(args.end(),
                {"--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--metrics-listen="});
    const Logger logger(LogLevel::kError);
    const auto config = ParseServerConfig(args);
    EXPECT_TRUE(config.ok()) << config.status();
    const auto app = Application::Start(*config, &logger);
    EXPECT_FALSE(app.ok());
    return std::string(app.status().message());
  };
  EXPECT_THAT(error({"--model=/no/such/folder"}), HasSubstr("/no/such/folder"));
  EXPECT_THAT(error({"--model=null", "--device=cuda"}), HasSubstr("--device: cuda"));
  EXPECT_THAT(error({"--model=null", "--max-prompt-tokens=5000"}),
              HasSubstr("--max-prompt-tokens: 5000"));
  EXPECT_THAT(error({"--model=null", "--auth-token-file=/no/tokens"}), HasSubstr("/no/tokens"));
  EXPECT_THAT(error({"--model=null", "--tls-cert=/no/cert", "--tls-key=/no/key"}),
              HasSubstr("--tls-cert: /no/cert"));
}

}  // namespace
}  // namespace parallax::server
