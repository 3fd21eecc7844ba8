// Perplexity of text under the served model, from prompt log-probabilities.
//
// A document is tokenized as a prompt (special tokens added) and cut into windows of W
// tokens that overlap by one: every token but the document's first is scored exactly once,
// and a window sees nothing before itself. The sum of -log p (natural logarithm) is the
// NLL; perplexity = exp(NLL / scored tokens); bits per byte = NLL / ln 2 / bytes of text.
//
// Thread safety: plain data and a free function.
#ifndef PARALLAX_CLIENTS_CPP_PERPLEXITY_H_
#define PARALLAX_CLIENTS_CPP_PERPLEXITY_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "clients/cpp/call_options.h"
#include "clients/cpp/client.h"

namespace parallax::client {

struct PerplexityOptions {
  /// Tokens a window, >= 2; 0 = the longest prompt that the server takes.
  int32_t window_tokens = 0;
  /// Score the model's first end-of-sequence token after each document.
  bool score_end = false;
  /// Windows sent at once, >= 1.
  int32_t concurrency = 8;
};

struct PerplexityResult {
  double nll = 0;  // nats
  int64_t scored_tokens = 0;
  int64_t bytes = 0;
  int64_t documents = 0;
  int64_t windows = 0;

  double Perplexity() const;
  double BitsPerByte() const;
};

/// Errors: those of the calls; INVALID_ARGUMENT for a window that is out of range.
grpc::Status MeasurePerplexity(Client* client, std::span<const std::string> documents,
                               const PerplexityOptions& options, const CallOptions& call_options,
                               PerplexityResult* result);

/// The documents between occurrences of `separator`; those without text are dropped.
std::vector<std::string> SplitDocuments(const std::string& text, const std::string& separator);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_PERPLEXITY_H_
