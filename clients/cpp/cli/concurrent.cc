// concurrent: many completions at once, for a first look at throughput. The load generator
// of bench/ is the tool for measurements.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <mutex>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"
#include "clients/cpp/cli/format.h"
#include "clients/cpp/cli/generate_options.h"

namespace parallax::client {
namespace {

using Clock = std::chrono::steady_clock;

// One stream's account. Written by its own callbacks, read after its end.
struct Tally {
  Clock::time_point started;
  std::optional<Clock::time_point> first_chunk;
  int64_t completion_tokens = 0;
  int64_t prompt_tokens = 0;
  std::string text;
  grpc::Status status;
};

struct Summary {
  int64_t failed = 0;
  int64_t completion_tokens = 0;
  int64_t prompt_tokens = 0;
  std::vector<double> first_chunk_ms;  // sorted
  double seconds = 0;

  double TokensPerSecond() const { return seconds > 0 ? completion_tokens / seconds : 0; }
  double FirstChunkMs(double quantile) const {
    if (first_chunk_ms.empty()) return 0;
    return first_chunk_ms[static_cast<size_t>(quantile * (first_chunk_ms.size() - 1))];
  }
};

StreamCallbacks CountInto(Tally* tally) {
  StreamCallbacks callbacks;
  callbacks.on_chunk = [tally](const v1::GenerateChunk& chunk) {
    if (!tally->first_chunk) tally->first_chunk = Clock::now();
    tally->text += chunk.text();
    if (chunk.has_finish()) {
      tally->completion_tokens += chunk.finish().usage().completion_tokens();
      tally->prompt_tokens = chunk.finish().usage().prompt_tokens();
    }
  };
  return callbacks;
}

Summary Summarize(const std::vector<Tally>& tallies, Clock::duration elapsed) {
  Summary summary;
  summary.seconds = std::chrono::duration<double>(elapsed).count();
  for (const Tally& tally : tallies) {
    summary.failed += tally.status.ok() ? 0 : 1;
    summary.completion_tokens += tally.completion_tokens;
    summary.prompt_tokens += tally.prompt_tokens;
    if (tally.first_chunk) {
      summary.first_chunk_ms.push_back(
          std::chrono::duration<double, std::milli>(*tally.first_chunk - tally.started).count());
    }
  }
  std::sort(summary.first_chunk_ms.begin(), summary.first_chunk_ms.end());
  return summary;
}

void Print(const Summary& summary, size_t count, bool json) {
  if (json) {
    std::cout << "{\"requests\":" << count << ",\"failed\":" << summary.failed
              << ",\"seconds\":" << Fixed(summary.seconds, 4)
              << ",\"prompt_tokens\":" << summary.prompt_tokens
              << ",\"completion_tokens\":" << summary.completion_tokens
              << ",\"tokens_per_second\":" << Fixed(summary.TokensPerSecond(), 1)
              << ",\"first_chunk_ms_p50\":" << Fixed(summary.FirstChunkMs(0.5), 3)
              << ",\"first_chunk_ms_max\":" << Fixed(summary.FirstChunkMs(1.0), 3) << "}\n";
    return;
  }
  std::cout << count << " completions at once: " << summary.completion_tokens << " tokens in "
            << Fixed(summary.seconds, 2) << " s, " << Fixed(summary.TokensPerSecond(), 1)
            << " tokens/s; first text after " << Fixed(summary.FirstChunkMs(0.5), 1)
            << " ms (median), " << Fixed(summary.FirstChunkMs(1.0), 1) << " ms (slowest)\n";
}

// All requests at once; returns when every one has ended.
void RunAll(Client* client, const std::vector<v1::GenerateRequest>& requests,
            const CallOptions& options, Cancellation* interrupt, std::vector<Tally>* tallies) {
  std::vector<std::shared_ptr<StreamCall>> calls;
  CallOptions uncancellable = options;
  uncancellable.cancellation = nullptr;
  for (size_t i = 0; i < requests.size(); ++i) {
    (*tallies)[i].started = Clock::now();
    calls.push_back(client->StartStream(requests[i], uncancellable, CountInto(&(*tallies)[i])));
  }
  const CancellationScope scope(interrupt, [&calls] {
    for (const auto& call : calls) call->Cancel();
  });
  for (size_t i = 0; i < calls.size(); ++i) (*tallies)[i].status = calls[i]->Wait();
}

}  // namespace

int RunConcurrent(Arguments arguments, Cancellation* interrupt) {
  constexpr int32_t kMaxCount = 10000;
  Connection connection(kDefaultServer);
  GenerateOptions options;
  std::vector<std::string> positional;
  int32_t count = 16;
  bool show = false;
  ArgParser parser("concurrent [options] [PROMPT]",
                   "Streams the same prompt COUNT times at once and prints the rate. "
                   "Request\ni has seed SEED + i.");
  parser.Positional(&positional, 1);
  parser.Option("count", "COUNT", &count, "How many at once. Default 16.");
  parser.Flag("show", &show, "Print the texts too.");
  options.RegisterPrompt(&parser);
  options.RegisterParameters(&parser);
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;

  std::optional<std::string> prompt;
  if (!positional.empty()) prompt = positional[0];
  v1::GenerateRequest request;
  std::string error;
  if (count < 1 || count > kMaxCount) {
    error =
        "--count: " + std::to_string(count) + " is outside [1, " + std::to_string(kMaxCount) + "]";
  } else if (options.BuildRequest(prompt, interrupt, &request, &error) &&
             request.has_request_id()) {
    error = "--request-id: several requests cannot share one";
  }
  if (!error.empty()) {
    std::cerr << "parallax-client: " << error << "\n";
    return kUsage;
  }
  std::unique_ptr<Client> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  std::vector<v1::GenerateRequest> requests(count, request);
  for (int32_t i = 0; i < count; ++i) {
    requests[i].mutable_sampling()->set_seed(request.sampling().seed() + i);
  }
  std::vector<Tally> tallies(count);
  const auto start = Clock::now();
  RunAll(client.get(), requests, connection.ToCallOptions(interrupt), interrupt, &tallies);
  const Summary summary = Summarize(tallies, Clock::now() - start);
  if (show) {
    for (const Tally& tally : tallies) std::cout << Quoted(tally.text) << "\n";
  }
  Print(summary, tallies.size(), connection.json);
  for (const Tally& tally : tallies) {
    if (!tally.status.ok()) return ReportFailure(tally.status, *interrupt);
  }
  return kSuccess;
}

}  // namespace parallax::client
