// The options of the commands that generate text, as a GenerateRequest.
//
// An option that is not given leaves its field unset, so that the server's documented
// default holds.
//
// Thread safety: none.
#ifndef PARALLAX_CLIENTS_CPP_CLI_GENERATE_OPTIONS_H_
#define PARALLAX_CLIENTS_CPP_CLI_GENERATE_OPTIONS_H_

#include <optional>
#include <string>

#include "clients/cpp/cancellation.h"
#include "clients/cpp/cli/arg_parser.h"
#include "parallax/v1/inference.pb.h"

namespace parallax::client {

class GenerateOptions {
 public:
  void RegisterPrompt(ArgParser* parser);
  void RegisterParameters(ArgParser* parser);

  /// `prompt` is the positional argument, if there was one; "-" reads standard input.
  /// An interrupt meanwhile leaves the program. False if there is not exactly one prompt or it
  /// cannot be read: `*error` says so.
  bool BuildRequest(const std::optional<std::string>& prompt, Cancellation* interrupt,
                    v1::GenerateRequest* request, std::string* error) const;

  /// The parameters alone, without a prompt.
  const v1::GenerateRequest& parameters() const { return request_; }

 private:
  void RegisterSampling(ArgParser* parser);
  void RegisterStopping(ArgParser* parser);
  void RegisterOutput(ArgParser* parser);
  void RegisterScheduling(ArgParser* parser);

  v1::GenerateRequest request_;
  std::optional<std::string> prompt_file_;
  std::optional<std::string> prompt_ids_;
};

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CLI_GENERATE_OPTIONS_H_
