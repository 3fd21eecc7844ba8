// stats, drain, abort, flush: what an operator asks of the admin port.
#include <iostream>
#include <memory>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"
#include "clients/cpp/cli/format.h"

namespace parallax::client {
namespace {

void PrintStats(const v1::GetStatsResponse& stats) {
  std::cout << "health     " << (stats.healthy() ? "ok" : "BROKEN: " + stats.health_message())
            << (stats.draining() ? ", draining" : "") << ", up "
            << Fixed(stats.uptime_ms() / 1e3, 1) << " s\n"
            << "requests   " << stats.requests_running() << " running, " << stats.requests_waiting()
            << " waiting, " << stats.requests_finished() << " of " << stats.requests_submitted()
            << " finished\n"
            << "tokens     " << stats.prompt_tokens() << " of prompts, " << stats.tokens_generated()
            << " generated, in " << stats.steps() << " steps\n"
            << "pages      " << stats.pages_used() << " used, " << stats.pages_cached()
            << " cached, of " << stats.pages_total() << "; " << stats.preemptions()
            << " preemptions\n"
            << "prefixes   " << stats.prefix_cache_hit_tokens() << " of "
            << stats.prefix_cache_query_tokens() << " tokens found in the cache\n"
            << "probes     " << stats.probe_state_bytes_used() << " of "
            << stats.probe_state_bytes_total() << " bytes\n";
}

}  // namespace

int RunStats(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultAdminServer);
  ArgParser parser("stats [options]", "Prints the engine's counters and levels.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  std::unique_ptr<AdminClient> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  v1::GetStatsResponse stats;
  const auto status = client->GetStats(connection.ToCallOptions(interrupt), &stats);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    PrintJson(stats);
  } else {
    PrintStats(stats);
  }
  return kSuccess;
}

int RunDrain(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultAdminServer);
  int32_t wait_ms = 0;
  ArgParser parser("drain [options]",
                   "Lets running requests end and refuses new ones. Exit code 0: drained, "
                   "1: some still run.");
  parser.Option("wait-ms", "MS", &wait_ms, "How long to wait. Default 0.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  std::unique_ptr<AdminClient> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  v1::DrainResponse response;
  const auto status = client->Drain(std::chrono::milliseconds(wait_ms),
                                    connection.ToCallOptions(interrupt), &response);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    PrintJson(response);
  } else if (response.drained()) {
    std::cout << "drained\n";
  } else {
    std::cout << response.live_requests() << " requests still running\n";
  }
  return response.drained() ? kSuccess : kCallFailed;
}

int RunAbort(Arguments arguments, Cancellation* interrupt) {
  constexpr size_t kMaxIds = 1024;
  Connection connection(kDefaultAdminServer);
  std::vector<std::string> ids;
  ArgParser parser("abort [options] REQUEST_ID...",
                   "Ends live requests of any caller. Exit code 0: all were live, 1: not all.");
  parser.Positional(&ids, kMaxIds);
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  if (ids.empty()) {
    std::cerr << "parallax-client: REQUEST_ID is missing\n";
    return kUsage;
  }
  std::unique_ptr<AdminClient> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  v1::AbortRequest request;
  request.mutable_request_ids()->Assign(ids.begin(), ids.end());
  v1::AbortResponse response;
  const auto status = client->Abort(request, connection.ToCallOptions(interrupt), &response);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    PrintJson(response);
  } else {
    for (const std::string& id : response.aborted()) std::cout << "aborted " << id << "\n";
    for (const std::string& id : response.not_found()) std::cout << "not live " << id << "\n";
  }
  return response.not_found().empty() ? kSuccess : kCallFailed;
}

int RunFlush(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultAdminServer);
  ArgParser parser("flush [options]", "Forgets every cached prefix that no request holds.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  std::unique_ptr<AdminClient> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  v1::FlushPrefixCacheResponse response;
  const auto status = client->FlushPrefixCache(connection.ToCallOptions(interrupt), &response);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    PrintJson(response);
  } else {
    std::cout << response.pages_freed() << " pages freed\n";
  }
  return kSuccess;
}

}  // namespace parallax::client
