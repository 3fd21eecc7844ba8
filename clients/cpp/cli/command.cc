#include "clients/cpp/cli/command.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>

namespace parallax::client {
namespace {

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  return code >= 0 && static_cast<size_t>(code) < std::size(kNames) ? kNames[code] : "UNKNOWN";
}

std::string StripBlanks(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

// "name:value" of what a header may hold; "grpc-" is gRPC's own.
bool ReadMetadatum(const std::string& text,
                   std::vector<std::pair<std::string, std::string>>* metadata) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos || colon == 0 || text.starts_with("grpc-")) return false;
  const std::string name = text.substr(0, colon), value = text.substr(colon + 1);
  const auto in_name = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  };
  const auto in_value = [](char c) { return c >= 0x20 && c < 0x7f; };
  if (!std::all_of(name.begin(), name.end(), in_name)) return false;
  if (!std::all_of(value.begin(), value.end(), in_value)) return false;
  metadata->emplace_back(name, value);
  return true;
}

}  // namespace

void Connection::Register(ArgParser* parser) {
  if (const char* from_environment = std::getenv("PARALLAX_TOKEN_FILE")) {
    token_file = from_environment;
  }
  parser->Section("Connection");
  parser->Option("server", "HOST:PORT", &server, "Default " + server + ".");
  parser->Flag("tls", &tls, "Use TLS; implied by the next four options.");
  parser->Option("tls-ca", "FILE", &ca_file, "Trust these authorities, not the system's.");
  parser->Option("tls-cert", "FILE", &cert_file, "Identify with this certificate (mTLS).");
  parser->Option("tls-key", "FILE", &key_file, "The certificate's key.");
  parser->Option("tls-server-name", "NAME", &server_name, "Name to expect in the certificate.");
  parser->Option("token-file", "FILE", &token_file,
                 "Bearer token. Default: $PARALLAX_TOKEN_FILE, else none.");
  parser->Option(
      "metadata", "NAME:VALUE",
      [this](const std::string& text) { return ReadMetadatum(text, &metadata); },
      "Sent with the call, such as traceparent:00-...; repeatable.");
  parser->Option("timeout-ms", "MS", &timeout_ms, "Deadline of the call. Default: none.");
  parser->Option("attempts", "N", &attempts,
                 "Tries when the server is unavailable or full. Default 5.");
  parser->Flag("json", &json, "Print JSON.");
}

grpc::Status Connection::ToChannelOptions(ChannelOptions* options) const {
  options->target = server;
  if (tls || !ca_file.empty() || !cert_file.empty() || !key_file.empty() || !server_name.empty()) {
    options->tls = TlsOptions{ca_file, cert_file, key_file, server_name};
  }
  if (!token_file.empty()) {
    std::string token;
    if (!ReadInput(token_file, nullptr, &token)) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "--token-file: cannot read " + token_file};
    }
    options->token = StripBlanks(token);
  }
  return grpc::Status::OK;
}

CallOptions Connection::ToCallOptions(Cancellation* interrupt) const {
  CallOptions options;
  if (timeout_ms) options.timeout = std::chrono::milliseconds(*timeout_ms);
  options.retry.max_attempts = attempts;
  options.metadata = metadata;
  options.cancellation = interrupt;
  return options;
}

std::optional<int> ParseOrExit(ArgParser* parser, std::span<const std::string> arguments) {
  std::string error;
  switch (parser->Parse(arguments, &error)) {
    case ArgParser::Outcome::kRun:
      return std::nullopt;
    case ArgParser::Outcome::kHelp:
      std::cout << parser->Help();
      return kSuccess;
    case ArgParser::Outcome::kError:
      break;
  }
  std::cerr << "parallax-client: " << error << " (see --help)\n";
  return kUsage;
}

namespace {

template <typename AnyClient>
std::optional<int> Connect(const Connection& connection, std::unique_ptr<AnyClient>* client) {
  ChannelOptions options;
  grpc::Status status = connection.ToChannelOptions(&options);
  if (status.ok()) status = AnyClient::Connect(options, client);
  if (status.ok()) return std::nullopt;
  std::cerr << "parallax-client: " << status.error_message() << "\n";
  return kUsage;
}

}  // namespace

std::optional<int> ConnectOrExit(const Connection& connection, std::unique_ptr<Client>* client) {
  return Connect(connection, client);
}

std::optional<int> ConnectOrExit(const Connection& connection,
                                 std::unique_ptr<AdminClient>* client) {
  return Connect(connection, client);
}

int ReportFailure(const grpc::Status& status, const Cancellation& interrupt) {
  if (interrupt.cancelled()) return kInterrupted;
  std::cerr << "parallax-client: " << CodeName(status.error_code()) << ": "
            << status.error_message() << "\n";
  return kCallFailed;
}

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  // Only Any fields can fail to be printed, and the contract has none.
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  std::cout << json << "\n" << std::flush;
}

CancellationScope ExitOnInterrupt(Cancellation* interrupt) {
  return CancellationScope(interrupt, [] { std::_Exit(kInterrupted); });
}

bool ReadInput(const std::string& path, Cancellation* interrupt, std::string* contents) {
  const CancellationScope scope = ExitOnInterrupt(interrupt);
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
  } else {
    std::ifstream file(path, std::ios::binary);
    if (!file) return false;
    text << file.rdbuf();
    if (file.bad()) return false;
  }
  *contents = text.str();
  return true;
}

bool ParseTokenIds(const std::string& text, std::vector<int32_t>* ids) {
  std::string separated = text;
  for (char& c : separated) {
    if (c == ',' || c == '[' || c == ']' || c == '\n' || c == '\t') c = ' ';
  }
  std::istringstream words(separated);
  for (std::string word; words >> word;) {
    if (!ParseNumber(word, &ids->emplace_back())) return false;
  }
  return true;
}

}  // namespace parallax::client
