// What every subcommand of parallax-client shares: connection options, output, exit codes.
//
// Thread safety: none, except where stated; commands run on the main thread.
#ifndef PARALLAX_CLIENTS_CPP_CLI_COMMAND_H_
#define PARALLAX_CLIENTS_CPP_CLI_COMMAND_H_

#include <google/protobuf/message.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "clients/cpp/admin_client.h"
#include "clients/cpp/call_options.h"
#include "clients/cpp/cancellation.h"
#include "clients/cpp/cli/arg_parser.h"
#include "clients/cpp/client.h"

namespace parallax::client {

/// Stated in `parallax-client --help`.
enum ExitCode : int {
  kSuccess = 0,
  kCallFailed = 1,  // the server answered with an error, or could not be reached
  kUsage = 2,       // the command line, or a file it names, cannot be understood
  kNotServing = 3,  // health: reached, but not SERVING
  kInterrupted = 130,
};

/// A subcommand. Run gets what follows the subcommand's name.
struct Command {
  const char* name;
  const char* summary;
  int (*run)(std::span<const std::string> arguments, Cancellation* interrupt);
};

/// The options that say where and how to call.
struct Connection {
  std::string server;
  bool tls = false;
  std::string ca_file;
  std::string cert_file;
  std::string key_file;
  std::string server_name;
  std::string token_file;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::optional<int64_t> timeout_ms;
  int32_t attempts = 5;
  bool json = false;

  explicit Connection(std::string default_server) : server(std::move(default_server)) {}

  void Register(ArgParser* parser);

  /// Errors: INVALID_ARGUMENT (a file that cannot be read).
  grpc::Status ToChannelOptions(ChannelOptions* options) const;
  CallOptions ToCallOptions(Cancellation* interrupt) const;
};

inline constexpr char kDefaultServer[] = "127.0.0.1:50051";
inline constexpr char kDefaultAdminServer[] = "127.0.0.1:50052";

/// Parses, and prints help or what is wrong. Returns the exit code if the command should
/// end here.
std::optional<int> ParseOrExit(ArgParser* parser, std::span<const std::string> arguments);

/// Connects as `connection` says. Returns the exit code on failure, having said why.
std::optional<int> ConnectOrExit(const Connection& connection, std::unique_ptr<Client>* client);
std::optional<int> ConnectOrExit(const Connection& connection,
                                 std::unique_ptr<AdminClient>* client);

/// Prints a failed call's status to stderr and returns the exit code for it.
int ReportFailure(const grpc::Status& status, const Cancellation& interrupt);

/// The proto3 JSON form, on one line, to stdout.
void PrintJson(const google::protobuf::Message& message);

/// For as long as the result lives, an interrupt leaves the program: nothing else ends a read
/// from a terminal. `interrupt` may be null.
[[nodiscard]] CancellationScope ExitOnInterrupt(Cancellation* interrupt);

/// The contents of a file, or of standard input for "-". False if it cannot be read. An
/// interrupt meanwhile leaves the program.
bool ReadInput(const std::string& path, Cancellation* interrupt, std::string* contents);

/// "1, 2,3" or "[1, 2, 3]" or separated by blanks.
bool ParseTokenIds(const std::string& text, std::vector<int32_t>* ids);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CLI_COMMAND_H_
