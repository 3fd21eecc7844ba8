// What the server costs by itself: gRPC, scheduling and streaming, with a model that costs
// nothing (--model null).
//
//   latency      one caller, one call after the other: from the call to its first token
//   throughput   many streams at once: tokens that arrived at the client per second, by
//                parallax.v1.InferenceService and by vllm.grpc.engine.VllmEngine
//   overhead     of the second against the first, in tokens/s and in the server's CPU time a
//                token: each round measures both, in an order that alternates, and the median of
//                the rounds' ratios counts. Other work on the machine slows both of a round.
//
// Callers name their requests, as gateways do. The server is a child process, so that client and
// server meet only through a TCP socket on loopback, as in real life; both share the machine's
// cores. Prints one JSON object.
//
//   server_bench [latency calls] [streams] [seconds] [rounds]
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
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
#include "vllm/vllm_engine.grpc.pb.h"

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

void StopServer(const ServerProcess& server) {
  kill(server.pid, SIGTERM);
  int status = 0;
  if (waitpid(server.pid, &status, 0) != server.pid || status != 0) {
    Die("the server did not stop cleanly");
  }
}

// CPU seconds that a process has used, of all its threads.
double CpuSeconds(pid_t pid) {
  clockid_t clock;
  timespec time;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) {
    Die("cannot read the CPU time of process " + std::to_string(pid));
  }
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
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

// What a stream of each service is: its stub, its messages and how tokens are counted.
struct OwnService {
  using Stub = v1::InferenceService::Stub;
  using Request = v1::GenerateRequest;
  using Message = v1::GenerateChunk;
  static auto NewStub(const std::shared_ptr<grpc::Channel>& channel) {
    return v1::InferenceService::NewStub(channel);
  }
  static Request MakeRequest(int max_tokens) { return server::MakeRequest(max_tokens); }
  static void Start(Stub* stub, grpc::ClientContext* context, const Request* request,
                    grpc::ClientReadReactor<Message>* reactor) {
    stub->async()->GenerateStream(context, request, reactor);
  }
  static int Tokens(const Message& message) { return message.token_ids_size(); }
};

struct VllmEngine {
  using Stub = ::vllm::grpc::engine::VllmEngine::Stub;
  using Request = ::vllm::grpc::engine::GenerateRequest;
  using Message = ::vllm::grpc::engine::GenerateResponse;
  static auto NewStub(const std::shared_ptr<grpc::Channel>& channel) {
    return ::vllm::grpc::engine::VllmEngine::NewStub(channel);
  }
  static Request MakeRequest(int max_tokens) {
    Request request;
    for (uint32_t i = 0; i < kPromptTokens; ++i) request.mutable_tokenized()->add_input_ids(i + 1);
    request.mutable_sampling_params()->set_max_tokens(static_cast<uint32_t>(max_tokens));
    request.set_stream(true);
    return request;
  }
  static void Start(Stub* stub, grpc::ClientContext* context, const Request* request,
                    grpc::ClientReadReactor<Message>* reactor) {
    stub->async()->Generate(context, request, reactor);
  }
  static int Tokens(const Message& message) { return message.chunk().token_ids_size(); }
};

// One stream after another on one stub, until told to stop. Each loop has one id for all its
// requests, of which only one is live at a time.
template <typename Service>
class StreamLoop final : public grpc::ClientReadReactor<typename Service::Message> {
 public:
  StreamLoop(typename Service::Stub* stub, const std::string& request_id, Tally* tally)
      : stub_(*stub), request_(Service::MakeRequest(kTokensPerCall)), tally_(*tally) {
    request_.set_request_id(request_id);
  }

  void Begin() {
    context_ = std::make_unique<grpc::ClientContext>();
    Service::Start(&stub_, context_.get(), &request_, this);
    this->StartRead(&message_);
    this->StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    tally_.tokens.fetch_add(Service::Tokens(message_), std::memory_order_relaxed);
    tally_.messages.fetch_add(1, std::memory_order_relaxed);
    this->StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) Die("a stream failed: " + status.error_message());
    tally_.calls.fetch_add(1, std::memory_order_relaxed);
    if (!tally_.stop) return Begin();
    MutexLock lock(&tally_.mutex);
    if (--tally_.open == 0) tally_.all_done.NotifyAll();
  }

 private:
  typename Service::Stub& stub_;
  typename Service::Request request_;
  Tally& tally_;
  std::unique_ptr<grpc::ClientContext> context_;
  typename Service::Message message_;
};

// What one service did in one round, or the median round of several.
struct Throughput {
  double tokens_per_second = 0, messages_per_second = 0, calls_per_second = 0;
  double server_ns_per_token = 0, client_ns_per_token = 0;  // CPU time
};

template <typename Service>
Throughput MeasureThroughput(const ServerProcess& server, int streams, double seconds) {
  std::vector<std::unique_ptr<typename Service::Stub>> stubs;
  for (int i = 0; i < kChannels; ++i) stubs.push_back(Service::NewStub(Connect(server.address)));
  Tally tally;
  {
    MutexLock lock(&tally.mutex);
    tally.open = streams;
  }
  std::vector<std::unique_ptr<StreamLoop<Service>>> loops;
  const double server_cpu = CpuSeconds(server.pid), client_cpu = CpuSeconds(getpid());
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < streams; ++i) {
    loops.push_back(std::make_unique<StreamLoop<Service>>(stubs[i % kChannels].get(),
                                                          "stream-" + std::to_string(i), &tally));
    loops.back()->Begin();
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  tally.stop = true;
  MutexLock lock(&tally.mutex);
  while (tally.open > 0) tally.all_done.Wait(&tally.mutex);
  const double elapsed = Seconds(Clock::now() - begin);
  const double ns_per_cpu_second = 1e9 / static_cast<double>(tally.tokens);
  return {tally.tokens / elapsed, tally.messages / elapsed, tally.calls / elapsed,
          (CpuSeconds(server.pid) - server_cpu) * ns_per_cpu_second,
          (CpuSeconds(getpid()) - client_cpu) * ns_per_cpu_second};
}

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Throughput Median(const std::vector<Throughput>& rounds) {
  const auto median = [&](double Throughput::*member) {
    std::vector<double> values;
    for (const Throughput& round : rounds) values.push_back(round.*member);
    return Median(std::move(values));
  };
  return {median(&Throughput::tokens_per_second), median(&Throughput::messages_per_second),
          median(&Throughput::calls_per_second), median(&Throughput::server_ns_per_token),
          median(&Throughput::client_ns_per_token)};
}

// Both services in every round, so that what disturbs a round disturbs both of a pair.
struct Comparison {
  std::vector<Throughput> own, vllm;

  double MedianRatio(double Throughput::*member) const {
    std::vector<double> ratios;
    for (size_t i = 0; i < own.size(); ++i) ratios.push_back(vllm[i].*member / own[i].*member);
    return Median(std::move(ratios));
  }
};

Comparison Compare(const ServerProcess& server, int streams, double seconds, int rounds) {
  Comparison comparison;
  for (int round = 0; round < rounds; ++round) {
    for (const bool own : {round % 2 == 0, round % 2 != 0}) {
      if (own) {
        comparison.own.push_back(MeasureThroughput<OwnService>(server, streams, seconds));
      } else {
        comparison.vllm.push_back(MeasureThroughput<VllmEngine>(server, streams, seconds));
      }
    }
  }
  return comparison;
}

std::string Json(const Throughput& throughput) {
  char text[320];
  std::snprintf(text, sizeof(text),
                "{\"tokens_per_second\": %.0f, \"messages_per_second\": %.0f, "
                "\"calls_per_second\": %.0f, \"messages_per_call\": %.2f, "
                "\"server_cpu_ns_per_token\": %.1f, \"client_cpu_ns_per_token\": %.1f}",
                throughput.tokens_per_second, throughput.messages_per_second,
                throughput.calls_per_second,
                throughput.messages_per_second / throughput.calls_per_second,
                throughput.server_ns_per_token, throughput.client_ns_per_token);
  return text;
}

int Run(int calls, int streams, double seconds, int rounds) {
  const ServerProcess server = StartServer();
  const Latency latency = MeasureLatency(server.address, calls);
  const Comparison comparison = Compare(server, streams, seconds, rounds);
  StopServer(server);
  std::printf(
      "{\"benchmark\": \"server\", \"model\": \"null\", \"cores\": %u,\n"
      " \"first_token_us\": {\"calls\": %d, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f},\n"
      " \"streams\": %d, \"connections\": %d, \"tokens_per_call\": %d, \"rounds\": %d,\n"
      " \"streaming\": %s,\n"
      " \"vllm_streaming\": %s,\n"
      " \"vllm_to_own\": {\"tokens_per_second\": %.4f, \"server_cpu_per_token\": %.4f, "
      "\"client_cpu_per_token\": %.4f}}\n",
      std::thread::hardware_concurrency(), calls, latency.p50_us, latency.p90_us, latency.p99_us,
      streams, kChannels, kTokensPerCall, rounds, Json(Median(comparison.own)).c_str(),
      Json(Median(comparison.vllm)).c_str(), comparison.MedianRatio(&Throughput::tokens_per_second),
      comparison.MedianRatio(&Throughput::server_ns_per_token),
      comparison.MedianRatio(&Throughput::client_ns_per_token));
  return 0;
}

}  // namespace
}  // namespace parallax::server

int main(int argc, char** argv) {
  const int calls = argc > 1 ? std::atoi(argv[1]) : 2000;
  const int streams = argc > 2 ? std::atoi(argv[2]) : 64;
  const double seconds = argc > 3 ? std::atof(argv[3]) : 2.0;
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 5;
  if (calls < 1 || streams < 1 || seconds <= 0 || rounds < 1) {
    std::fprintf(stderr,
                 "server_bench [latency calls] [streams] [seconds] [rounds], each more than 0\n");
    return 2;
  }
  return parallax::server::Run(calls, streams, seconds, rounds);
}
