// The subcommands of parallax-client. Each is a function from its arguments to an exit code;
// `interrupt` is cancelled by Ctrl-C.
#ifndef PARALLAX_CLIENTS_CPP_CLI_COMMANDS_H_
#define PARALLAX_CLIENTS_CPP_CLI_COMMANDS_H_

#include <span>
#include <string>

#include "clients/cpp/cancellation.h"

namespace parallax::client {

using Arguments = std::span<const std::string>;

int RunComplete(Arguments arguments, Cancellation* interrupt);
int RunStream(Arguments arguments, Cancellation* interrupt);
int RunChat(Arguments arguments, Cancellation* interrupt);
int RunConcurrent(Arguments arguments, Cancellation* interrupt);
int RunTokenize(Arguments arguments, Cancellation* interrupt);
int RunDetokenize(Arguments arguments, Cancellation* interrupt);
int RunPerplexity(Arguments arguments, Cancellation* interrupt);
int RunInfo(Arguments arguments, Cancellation* interrupt);
int RunHealth(Arguments arguments, Cancellation* interrupt);
int RunStats(Arguments arguments, Cancellation* interrupt);
int RunDrain(Arguments arguments, Cancellation* interrupt);
int RunAbort(Arguments arguments, Cancellation* interrupt);
int RunFlush(Arguments arguments, Cancellation* interrupt);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CLI_COMMANDS_H_
