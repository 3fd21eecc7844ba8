// complete, stream: one request, answered at once or as it is generated.
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"
#include "clients/cpp/cli/format.h"
#include "clients/cpp/cli/generate_options.h"

namespace parallax::client {
namespace {

struct Setup {
  Connection connection{kDefaultServer};
  GenerateOptions options;
  std::vector<std::string> positional;
  bool quiet = false;
  v1::GenerateRequest request;
  std::unique_ptr<Client> client;
};

std::optional<int> Prepare(const char* usage, const char* summary, Arguments arguments,
                           Cancellation* interrupt, Setup* setup) {
  ArgParser parser(usage, summary);
  parser.Positional(&setup->positional, 1);
  setup->options.RegisterPrompt(&parser);
  setup->options.RegisterParameters(&parser);
  setup->connection.Register(&parser);
  parser.Flag("quiet", &setup->quiet, "Print the text only, no summary to stderr.");
  if (const auto exit = ParseOrExit(&parser, arguments)) return exit;

  std::optional<std::string> prompt;
  if (!setup->positional.empty()) prompt = setup->positional[0];
  std::string error;
  if (!setup->options.BuildRequest(prompt, interrupt, &setup->request, &error)) {
    std::cerr << "parallax-client: " << error << "\n";
    return kUsage;
  }
  return ConnectOrExit(setup->connection, &setup->client);
}

void PrintLogprobs(const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs) {
  for (const v1::TokenLogprobs& position : logprobs) {
    std::cout << "  " << Quoted(position.chosen().token()) << " " << position.chosen().token_id();
    if (position.chosen().has_logprob()) {
      std::cout << " " << Fixed(position.chosen().logprob(), 4);
    }
    for (const v1::TokenLogprob& top : position.top()) {
      std::cout << "  | " << Quoted(top.token()) << " " << Fixed(top.logprob(), 4);
    }
    std::cout << "\n";
  }
}

void PrintResponse(const v1::GenerateResponse& response, bool quiet) {
  if (response.prompt_logprobs_size() > 0) {
    std::cout << "prompt log-probabilities:\n";
    PrintLogprobs(response.prompt_logprobs());
  }
  for (const v1::Choice& choice : response.choices()) {
    if (response.choices_size() > 1) std::cout << "--- choice " << choice.index() << "\n";
    std::cout << choice.text() << "\n" << std::flush;
    PrintLogprobs(choice.logprobs());
    if (!quiet) std::cerr << "[" << DescribeFinish(choice.finish()) << "]\n";
  }
}

// Prints choices as they come: one choice as it streams, several line by line, so that
// interleaved chunks stay readable.
class StreamPrinter {
 public:
  StreamPrinter(bool json, bool several) : json_(json), several_(several) {}

  void Print(const v1::GenerateChunk& chunk) {
    if (json_) {
      PrintJson(chunk);
      return;
    }
    if (several_) {
      PrintLines(chunk);
    } else {
      std::cout << chunk.text() << std::flush;
    }
    if (chunk.has_finish()) finishes_.push_back(DescribeFinish(chunk.finish()));
  }

  // After the stream's end, however it ended.
  void Close(bool quiet) {
    if (json_) return;
    if (!several_) std::cout << "\n" << std::flush;
    if (quiet) return;
    for (const std::string& finish : finishes_) std::cerr << "[" << finish << "]\n";
  }

 private:
  void PrintLines(const v1::GenerateChunk& chunk) {
    std::string& line = lines_[chunk.index()];
    line += chunk.text();
    for (size_t end; (end = line.find('\n')) != std::string::npos; line.erase(0, end + 1)) {
      std::cout << "[" << chunk.index() << "] " << line.substr(0, end) << "\n";
    }
    if (chunk.has_finish() && !line.empty()) {
      std::cout << "[" << chunk.index() << "] " << line << "\n";
    }
    std::cout << std::flush;
  }

  const bool json_;
  const bool several_;
  std::map<int32_t, std::string> lines_;
  std::vector<std::string> finishes_;
};

}  // namespace

int RunComplete(Arguments arguments, Cancellation* interrupt) {
  Setup setup;
  if (const auto exit = Prepare("complete [options] [PROMPT]",
                                "Runs a request to its end, then prints every choice.", arguments,
                                interrupt, &setup)) {
    return *exit;
  }
  v1::GenerateResponse response;
  const auto status =
      setup.client->Generate(setup.request, setup.connection.ToCallOptions(interrupt), &response);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (setup.connection.json) {
    PrintJson(response);
  } else {
    PrintResponse(response, setup.quiet);
  }
  return kSuccess;
}

int RunStream(Arguments arguments, Cancellation* interrupt) {
  Setup setup;
  if (const auto exit = Prepare("stream [options] [PROMPT]",
                                "Prints text as it is generated; with --json one chunk a line.",
                                arguments, interrupt, &setup)) {
    return *exit;
  }
  StreamPrinter printer(setup.connection.json, setup.request.sampling().n() > 1);
  const auto status = setup.client->GenerateStream(
      setup.request, setup.connection.ToCallOptions(interrupt),
      [&printer](const v1::GenerateChunk& chunk) { printer.Print(chunk); });
  printer.Close(setup.quiet);
  return status.ok() ? kSuccess : ReportFailure(status, *interrupt);
}

}  // namespace parallax::client
