// parallax-client: a parallax-server from the command line.
#include <signal.h>

#include <iostream>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"

namespace parallax::client {
namespace {

constexpr Command kCommands[] = {
    {"complete", "run a request to its end, then print it", RunComplete},
    {"stream", "print text as it is generated", RunStream},
    {"chat", "continue a transcript, turn by turn", RunChat},
    {"concurrent", "many completions at once, and their rate", RunConcurrent},
    {"tokenize", "text to token ids", RunTokenize},
    {"detokenize", "token ids to text", RunDetokenize},
    {"perplexity", "how well the model predicts a file", RunPerplexity},
    {"info", "the model and its limits", RunInfo},
    {"health", "whether the server is serving", RunHealth},
    {"stats", "counters and levels (admin port)", RunStats},
    {"drain", "refuse new requests, let running ones end (admin port)", RunDrain},
    {"abort", "end live requests (admin port)", RunAbort},
    {"flush", "forget cached prefixes (admin port)", RunFlush},
};

void PrintHelp(std::ostream& out) {
  out << "Usage: parallax-client COMMAND [options]\n\n"
         "Talks to a parallax-server over gRPC.\n\nCommands:\n";
  for (const Command& command : kCommands) {
    out << "  " << command.name << std::string(13 - std::string(command.name).size(), ' ')
        << command.summary << "\n";
  }
  out << "\n`parallax-client COMMAND --help` lists a command's options.\n\n"
         "Exit codes: 0 success; 1 the call failed; 2 the command line is wrong; 3 (health)\n"
         "the server is not serving; 130 interrupted by Ctrl-C.\n";
}

// Turns SIGINT into a cancellation, on a thread of its own: nothing useful is safe to do in
// a signal handler. Blocks the signal in every thread that starts later.
class InterruptWatcher {
 public:
  explicit InterruptWatcher(Cancellation* interrupt) {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    std::thread([this, interrupt] {
      for (int signal = 0; sigwait(&signals_, &signal) == 0;) {
        if (interrupt->cancelled()) std::_Exit(kInterrupted);  // asked twice
        interrupt->Cancel();
      }
    }).detach();
  }

 private:
  sigset_t signals_;
};

int Main(std::span<const std::string> arguments) {
  // Both outlive main: the watching thread uses them until the process ends.
  static Cancellation interrupt;
  static InterruptWatcher watcher(&interrupt);
  if (arguments.empty()) {
    PrintHelp(std::cerr);
    return kUsage;
  }
  if (arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
    PrintHelp(std::cout);
    return kSuccess;
  }
  for (const Command& command : kCommands) {
    if (arguments[0] == command.name) return command.run(arguments.subspan(1), &interrupt);
  }
  std::cerr << "parallax-client: unknown command \"" << arguments[0] << "\" (see --help)\n";
  return kUsage;
}

}  // namespace
}  // namespace parallax::client

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  return parallax::client::Main(arguments);
}
