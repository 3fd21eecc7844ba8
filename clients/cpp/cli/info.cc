// info, health: what a server serves, and whether it does.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"
#include "clients/cpp/cli/format.h"
#include "clients/cpp/health.h"

namespace parallax::client {

int RunInfo(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultServer);
  ArgParser parser("info [options]", "Prints the model that is served and its limits.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  std::unique_ptr<Client> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  v1::GetModelInfoResponse info;
  const auto status = client->GetModelInfo(connection.ToCallOptions(interrupt), &info);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    PrintJson(info);
    return kSuccess;
  }
  std::cout << "model            " << info.name() << " (" << info.architecture() << ", "
            << Fixed(info.num_parameters() / 1e6, 1) << " M parameters)\n"
            << "attention        " << (info.probe() ? "Parallax" : "softmax") << "\n"
            << "weights, cache   " << info.weight_dtype() << ", " << info.kv_dtype() << "\n"
            << "vocabulary       " << info.vocab_size() << " tokens"
            << (info.has_tokenizer() ? "" : ", no tokenizer: token ids only") << "\n"
            << "context          " << info.max_context_tokens() << " tokens, prompts up to "
            << info.max_prompt_tokens() << "\n"
            << "choices          up to " << info.max_choices() << "\n"
            << "server           " << info.server_version() << " on " << info.device() << "\n";
  return kSuccess;
}

int RunHealth(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultServer);
  std::string service;
  std::optional<int64_t> wait_ms;
  ArgParser parser("health [options]",
                   "Asks grpc.health.v1. Exit code 0: SERVING, 3: not, 1: not reached.");
  parser.Option("service", "NAME", &service, "Default: the server as a whole.");
  parser.Option("wait-ms", "MS", &wait_ms, "Wait so long for SERVING, also for a start.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  std::unique_ptr<Client> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  auto serving = ServingStatus::kServing;
  CallOptions options = connection.ToCallOptions(interrupt);
  if (wait_ms) {
    const std::chrono::milliseconds wait(*wait_ms);
    options.timeout = std::min(options.timeout.value_or(wait), wait);
  }
  const auto status = wait_ms ? WaitUntilServing(client->channel(), service, options)
                              : CheckHealth(client->channel(), service, options, &serving);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    std::cout << "{\"status\":\"" << ServingStatusName(serving) << "\"}\n";
  } else {
    std::cout << ServingStatusName(serving) << "\n";
  }
  return serving == ServingStatus::kServing ? kSuccess : kNotServing;
}

}  // namespace parallax::client
