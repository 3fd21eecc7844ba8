// tokenize, detokenize.
#include <iostream>
#include <memory>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/commands.h"
#include "clients/cpp/cli/format.h"

namespace parallax::client {

int RunTokenize(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultServer);
  std::vector<std::string> positional;
  bool special = true;
  ArgParser parser("tokenize [options] TEXT",
                   "Prints the token ids of TEXT (- reads standard input) and their bytes.");
  parser.Positional(&positional, 1);
  parser.Flag("special", &special, "Add the begin and end tokens of a prompt; default on.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  if (positional.empty()) {
    std::cerr << "parallax-client: TEXT is missing\n";
    return kUsage;
  }
  v1::TokenizeRequest request;
  request.set_add_special_tokens(special);
  if (positional[0] == "-") {
    ReadInput("-", interrupt, request.mutable_text());
  } else {
    request.set_text(positional[0]);
  }
  std::unique_ptr<Client> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  v1::TokenizeResponse response;
  const auto status = client->Tokenize(request, connection.ToCallOptions(interrupt), &response);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    PrintJson(response);
    return kSuccess;
  }
  for (int i = 0; i < response.token_ids_size(); ++i) {
    std::cout << response.token_ids(i) << "\t" << Quoted(response.tokens(i)) << "\n";
  }
  return kSuccess;
}

int RunDetokenize(Arguments arguments, Cancellation* interrupt) {
  Connection connection(kDefaultServer);
  std::vector<std::string> positional;
  bool skip_special = true;
  ArgParser parser("detokenize [options] IDS",
                   "Prints the text of token ids, as in 1,15,22 (- reads standard input).");
  parser.Positional(&positional, 1);
  parser.Flag("skip-special", &skip_special, "Special tokens give no text; default on.");
  connection.Register(&parser);
  if (const auto exit = ParseOrExit(&parser, arguments)) return *exit;
  std::string list = positional.empty() ? "" : positional[0];
  if (list == "-") ReadInput("-", interrupt, &list);
  std::vector<int32_t> ids;
  if (!ParseTokenIds(list, &ids) || ids.empty()) {
    std::cerr << "parallax-client: IDS: \"" << list << "\" is not a list of token ids\n";
    return kUsage;
  }
  v1::DetokenizeRequest request;
  request.set_skip_special_tokens(skip_special);
  request.mutable_token_ids()->Assign(ids.begin(), ids.end());
  std::unique_ptr<Client> client;
  if (const auto exit = ConnectOrExit(connection, &client)) return *exit;

  v1::DetokenizeResponse response;
  const auto status = client->Detokenize(request, connection.ToCallOptions(interrupt), &response);
  if (!status.ok()) return ReportFailure(status, *interrupt);
  if (connection.json) {
    PrintJson(response);
  } else {
    std::cout << response.text() << "\n";
  }
  return kSuccess;
}

}  // namespace parallax::client
