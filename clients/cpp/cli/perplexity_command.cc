// perplexity: how well the served model predicts a text.
#include <iostream>
#include <memory>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"
#include "clients/cpp/cli/format.h"
#include "clients/cpp/perplexity.h"

namespace parallax::client {
namespace {

void Print(const PerplexityResult& result, bool json) {
  if (json) {
    std::cout << "{\"nll\":" << Fixed(result.nll, 6)
              << ",\"scored_tokens\":" << result.scored_tokens << ",\"bytes\":" << result.bytes
              << ",\"documents\":" << result.documents << ",\"windows\":" << result.windows
              << ",\"perplexity\":" << Fixed(result.Perplexity(), 6)
              << ",\"bits_per_byte\":" << Fixed(result.BitsPerByte(), 6) << "}\n";
    return;
  }
  std::cout << "documents      " << result.documents << " (" << result.bytes << " bytes, "
            << result.windows << " windows)\n"
            << "scored tokens  " << result.scored_tokens << "\n"
            << "NLL            " << Fixed(result.nll, 3) << " nats\n"
            << "perplexity     " << Fixed(result.Perplexity(), 4) << "\n"
            << "bits per byte  " << Fixed(result.BitsPerByte(), 4) << "\n";
}

}  // namespace

int RunPerplexity(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultServer);
  PerplexityOptions options;
  std::vector<std::string> positional;
  std::string separator;
  ArgParser parser("perplexity [options] FILE",
                   "Prints NLL, perplexity per token and bits per byte of a text file (- reads\n"
                   "standard input) under the served model.");
  parser.Positional(&positional, 1);
  parser.Option("separator", "TEXT", &separator,
                "Cuts the file into documents. Default: it is one.");
  parser.Option("window", "TOKENS", &options.window_tokens,
                "Tokens scored in one request. Default: as many as fit.");
  parser.Flag("score-end", &options.score_end, "Score the end-of-sequence token too.");
  parser.Option("concurrency", "N", &options.concurrency, "Requests at once. Default 8.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  std::string text;
  if (positional.empty() || !ReadInput(positional[0], interrupt, &text)) {
    std::cerr << "parallax-client: "
              << (positional.empty() ? "FILE is missing" : "cannot read " + positional[0]) << "\n";
    return kUsage;
  }
  const std::vector<std::string> documents = SplitDocuments(text, separator);
  if (documents.empty()) {
    std::cerr << "parallax-client: " << positional[0] << " has no text\n";
    return kUsage;
  }
  std::unique_ptr<Client> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  PerplexityResult result;
  const auto status = MeasurePerplexity(client.get(), documents, options,
                                        connection.ToCallOptions(interrupt), &result);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  Print(result, connection.json);
  return kSuccess;
}

}  // namespace parallax::client
