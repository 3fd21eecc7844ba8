// What the server costs by itself: gRPC, scheduling and streaming, with a model that costs
// nothing (--model null).
//
//   latency      one caller, one call after the other: from the call to its first token
//   throughput   many streams at once: tokens that arrived at the client per second
//
// The server is a child process, so that client and server meet only through a TCP socket
// on loopback, as in real life; both share the machine's cores. Prints one JSON object.
//
//   server_bench [latency calls] [streams] [seconds]
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "grpcpp/grpcpp.h"
#include "parallax/v1/inference.grpc.pb.h"
#include "server/application.h"
#include "server/config.h"
#include "server/logger.h"
#include "server/signals.h"

namespace parallax::server {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPromptTokens = 16;
constexpr int kChannels = 4;  // connections: one would serialize all streams' writes
constexpr int kTokensPerCall = 512;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "server_bench: %s\n", what.c_str());
  std::exit(1);
}

// ---- The server process. ----

int ServeUntilTerminated(int ready_fd) {
  SignalThread signals;
  const std::vector<std::string_view> args = {
      "--model=null",      "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0",
      "--metrics-listen=", "--log-level=warning",  "--max-num-seqs=256",
      "--grace-period=1s"};
  const auto config = ParseServerConfig(args);
  if (!config.ok()) Die(config.status().ToString());
  const Logger logger(config->log_level);
  auto app = Application::Start(*config, &logger);
  if (!app.ok()) Die(app.status().ToString());
  signals.Start({.first_stop = [] {}, .later_stop = [] {}, .reload = [] {}});
  const std::string ready = (*app)->ReadyLine() + "\n";
  if (write(ready_fd, ready.data(), ready.size()) < 0) Die("cannot tell the port");
  close(ready_fd);
  signals.AwaitStop();
  return (*app)->Stop() == Application::StopResult::kFinished ? 0 : 3;
}

struct ServerProcess {
  pid_t pid = 0;
  std::string address;
};

// Before any thread or gRPC object exists in this process: fork copies neither.
ServerProcess StartServer() {
  int fds[2];
  if (pipe(fds) != 0) Die("pipe failed");
  const pid_t pid = fork();
  if (pid < 0) Die("fork failed");
  if (pid == 0) {
    close(fds[0]);
    std::exit(ServeUntilTerminated(fds[1]));
  }
  close(fds[1]);
  char line[512] = {};
  if (read(fds[0], line, sizeof(line) - 1) <= 0) Die("the server did not start");
  close(fds[0]);
  const char* port = std::strstr(line, "\"port\":");
  if (port == nullptr) Die("the server told no port");
  return {pid, "127.0.0.1:" + std::to_string(std::atoi(port + 7))};
}

// CPU seconds that the server used.
double StopServer(const ServerProcess& server) {
  kill(server.pid, SIGTERM);
  int status = 0;
  rusage usage{};
  if (wait4(server.pid, &status, 0, &usage) != server.pid || status != 0) {
    Die("the server did not stop cleanly");
  }
  const auto seconds = [](const timeval& t) { return t.tv_sec + t.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// ---- The client. ----

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    Die("cannot connect to " + address);
  }
  return channel;
}

v1::GenerateRequest MakeRequest(int max_tokens) {
  v1::GenerateRequest request;
  for (int i = 0; i < kPromptTokens; ++i) request.mutable_token_ids()->add_ids(i + 1);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

struct Latency {
  double p50_us = 0, p90_us = 0, p99_us = 0;
};

Latency MeasureLatency(const std::string& address, int calls) {
  const auto stub = v1::InferenceService::NewStub(Connect(address));
  const v1::GenerateRequest request = MakeRequest(4);
  v1::GenerateChunk chunk;
  std::vector<double> times;
  constexpr int kWarmUp = 100;
  for (int call = 0; call < kWarmUp + calls; ++call) {
    grpc::ClientContext context;
    const Clock::time_point begin = Clock::now();
    const auto reader = stub->GenerateStream(&context, request);
    if (!reader->Read(&chunk) || chunk.token_ids_size() == 0) Die("no first token");
    if (call >= kWarmUp) times.push_back(Seconds(Clock::now() - begin) * 1e6);
    while (reader->Read(&chunk)) {
    }
    if (!reader->Finish().ok()) Die("a call failed");
  }
  std::sort(times.begin(), times.end());
  const auto quantile = [&](double q) { return times[static_cast<size_t>(q * times.size())]; };
  return {quantile(0.50), quantile(0.90), quantile(0.99)};
}

struct Tally {
  std::atomic<int64_t> tokens{0};
  std::atomic<int64_t> messages{0};
  std::atomic<int64_t> calls{0};
  std::atomic<bool> stop{false};
  Mutex mutex;
  CondVar all_done;
  int open PARALLAX_GUARDED_BY(mutex) = 0;
};

// One stream after another on one stub, until told to stop.
class StreamLoop final : public grpc::ClientReadReactor<v1::GenerateChunk> {
 public:
  StreamLoop(v1::InferenceService::Stub* stub, const v1::GenerateRequest* request, Tally* tally)
      : stub_(*stub), request_(*request), tally_(*tally) {}

  void Begin() {
    context_ = std::make_unique<grpc::ClientContext>();
    stub_.async()->GenerateStream(context_.get(), &request_, this);
    StartRead(&chunk_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    tally_.tokens.fetch_add(chunk_.token_ids_size(), std::memory_order_relaxed);
    tally_.messages.fetch_add(1, std::memory_order_relaxed);
    StartRead(&chunk_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) Die("a stream failed: " + status.error_message());
    tally_.calls.fetch_add(1, std::memory_order_relaxed);
    if (!tally_.stop) return Begin();
    MutexLock lock(&tally_.mutex);
    if (--tally_.open == 0) tally_.all_done.NotifyAll();
  }

 private:
  v1::InferenceService::Stub& stub_;
  const v1::GenerateRequest& request_;
  Tally& tally_;
  std::unique_ptr<grpc::ClientContext> context_;
  v1::GenerateChunk chunk_;
};

struct Throughput {
  double tokens_per_second = 0, messages_per_second = 0, calls_per_second = 0;
};

Throughput MeasureThroughput(const std::string& address, int streams, double seconds) {
  const v1::GenerateRequest request = MakeRequest(kTokensPerCall);
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  for (int i = 0; i < kChannels; ++i) {
    stubs.push_back(v1::InferenceService::NewStub(Connect(address)));
  }
  Tally tally;
  {
    MutexLock lock(&tally.mutex);
    tally.open = streams;
  }
  std::vector<std::unique_ptr<StreamLoop>> loops;
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < streams; ++i) {
    loops.push_back(std::make_unique<StreamLoop>(stubs[i % kChannels].get(), &request, &tally));
    loops.back()->Begin();
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  tally.stop = true;
  MutexLock lock(&tally.mutex);
  while (tally.open > 0) tally.all_done.Wait(&tally.mutex);
  const double elapsed = Seconds(Clock::now() - begin);
  return {tally.tokens / elapsed, tally.messages / elapsed, tally.calls / elapsed};
}

int Run(int calls, int streams, double seconds) {
  const ServerProcess server = StartServer();
  const Latency latency = MeasureLatency(server.address, calls);
  const Throughput throughput = MeasureThroughput(server.address, streams, seconds);
  const double server_cpu = StopServer(server);
  std::printf(
      "{\"benchmark\": \"server\", \"model\": \"null\", \"cores\": %u,\n"
      " \"first_token_us\": {\"calls\": %d, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f},\n"
      " \"streaming\": {\"streams\": %d, \"connections\": %d, \"tokens_per_call\": %d,\n"
      "   \"tokens_per_second\": %.0f, \"messages_per_second\": %.0f, \"calls_per_second\": %.0f,\n"
      "   \"tokens_per_message\": %.2f},\n"
      " \"server_cpu_seconds\": %.2f}\n",
      std::thread::hardware_concurrency(), calls, latency.p50_us, latency.p90_us, latency.p99_us,
      streams, kChannels, kTokensPerCall, throughput.tokens_per_second,
      throughput.messages_per_second, throughput.calls_per_second,
      throughput.tokens_per_second / throughput.messages_per_second, server_cpu);
  return 0;
}

}  // namespace
}  // namespace parallax::server

int main(int argc, char** argv) {
  const int calls = argc > 1 ? std::atoi(argv[1]) : 2000;
  const int streams = argc > 2 ? std::atoi(argv[2]) : 64;
  const double seconds = argc > 3 ? std::atof(argv[3]) : 5.0;
  if (calls < 1 || streams < 1 || seconds <= 0) {
    std::fprintf(stderr, "server_bench [latency calls] [streams] [seconds], each more than 0\n");
    return 2;
  }
  return parallax::server::Run(calls, streams, seconds);
}
