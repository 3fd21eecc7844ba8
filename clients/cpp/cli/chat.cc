// chat: a loop that continues one transcript. The service completes text as it is and applies
// no chat template, so the transcript is plain: what was said, and what was answered.
#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"
#include "clients/cpp/cli/generate_options.h"

namespace parallax::client {
namespace {

constexpr char kChatHelp[] =
    "Each line you type is appended to the transcript, and the model continues it.\n"
    "An empty line lets the model go on; /new forgets the transcript; /show prints it;\n"
    "Ctrl-D or Ctrl-C leaves.\n";

// One reply, appended to the transcript as far as it came.
grpc::Status Reply(Client* client, const v1::GenerateRequest& parameters,
                   const CallOptions& options, std::string* transcript) {
  v1::GenerateRequest request = parameters;
  request.set_text(*transcript);
  const auto status =
      client->GenerateStream(request, options, [transcript](const v1::GenerateChunk& chunk) {
        std::cout << chunk.text() << std::flush;
        *transcript += chunk.text();
      });
  std::cout << "\n" << std::flush;
  return status;
}

// The next line of standard input; false at its end.
bool ReadLine(bool interactive, Cancellation* interrupt, std::string* line) {
  if (interactive) std::cerr << "> " << std::flush;
  const CancellationScope scope = ExitOnInterrupt(interrupt);
  return static_cast<bool>(std::getline(std::cin, *line));
}

}  // namespace

int RunChat(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultServer);
  GenerateOptions options;
  std::string separator = "\n";
  ArgParser parser("chat [options]",
                   std::string("Continues a transcript, turn by turn.\n") + kChatHelp);
  parser.Option("separator", "TEXT", &separator, "Put between turns. Default: a line's end.");
  options.RegisterParameters(&parser);
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  if (options.parameters().sampling().n() > 1) {
    std::cerr << "parallax-client: --n: a transcript has one continuation\n";
    return kUsage;
  }
  std::unique_ptr<Client> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  const bool interactive = isatty(STDIN_FILENO) != 0;
  if (interactive) std::cerr << kChatHelp;
  std::string transcript;
  for (std::string line; ReadLine(interactive, interrupt, &line);) {
    if (line == "/new") {
      transcript.clear();
    } else if (line == "/show") {
      std::cout << transcript << "\n" << std::flush;
    } else {
      if (!transcript.empty() && !line.empty()) transcript += separator;
      transcript += line;
      const auto status = Reply(client.get(), options.parameters(),
                                connection.ToCallOptions(interrupt), &transcript);
      if (!status.ok()) return ReportFailure(status, *interrupt);
    }
  }
  return kSuccess;
}

}  // namespace parallax::client
