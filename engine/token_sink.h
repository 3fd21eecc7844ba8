// TokenSink: where a request's output goes.
//
// The engine calls a sink from its own thread, in this order:
//   OnStart  at most once, before any token (prompt log-probabilities, echo),
//   OnDelta  any number of times; the last one of every choice carries its finish,
//   OnDone   exactly once for every accepted request, last.
// What there is to tell of the prompt is in OnStart, once for all choices: it may be a thousand
// times the size of a token's output, and n copies of it n thousand. However a request ends,
// every choice gets a finish before OnDone.
//
// Contract for implementers: never block, never call back into the engine except Cancel,
// never throw. A slow reader is the sink's to handle, in a bounded buffer.
#ifndef PARALLAX_ENGINE_TOKEN_SINK_H_
#define PARALLAX_ENGINE_TOKEN_SINK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace parallax {

/// A token and its log-probability under the model.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;
};

/// One position: the token that stands there and the most likely ones, best first.
struct PositionLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;
};

enum class FinishReason {
  kStop,       // EOS, a stop token or a stop string
  kLength,     // max_tokens or the context's end
  kCancelled,  // client gone, Abort, or shutdown
  kDeadline,   // timeout passed: the text so far is all there is
  kError,      // see the request's status
};

struct RequestTimings {
  absl::Duration queue = absl::ZeroDuration();    // arrival to first scheduled
  absl::Duration prefill = absl::ZeroDuration();  // first scheduled to first token
  absl::Duration decode = absl::ZeroDuration();   // first to last token
};

/// How one choice ended.
struct ChoiceFinish {
  FinishReason reason = FinishReason::kStop;
  std::optional<std::string> matched_stop_string;
  std::optional<int32_t> matched_stop_token;
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // prompt tokens served from the prefix cache
  int32_t completion_tokens = 0;
  RequestTimings timings;
};

/// What happened to one choice in one step.
struct OutputDelta {
  int32_t choice = 0;
  std::string text;  // whole UTF-8 characters; empty for models without a tokenizer
  std::vector<int32_t> token_ids;
  std::vector<PositionLogprobs> logprobs;  // one a token id, if asked for
  std::optional<ChoiceFinish> finish;  // set on the choice's last delta
};

using Logprobs = std::vector<PositionLogprobs>;

/// What stands at the beginning of every choice's output.
struct Echo {
  std::string text;
  std::vector<int32_t> token_ids;
  /// One a token id, if asked for (else null). A token that was not scored has NaN.
  std::shared_ptr<const Logprobs> logprobs;
};

/// Known when the prompt has been processed.
struct RequestStart {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  /// One a prompt token; the first has no log-probability (NaN chosen). Null: not asked for.
  std::shared_ptr<const Logprobs> prompt_logprobs;
  std::shared_ptr<const Echo> echo;  // null: not asked for
};

class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnStart(RequestStart start) = 0;
  virtual void OnDelta(OutputDelta delta) = 0;
  /// OK: every choice ended by itself or by its timeout. CANCELLED, DEADLINE_EXCEEDED, INTERNAL,
  /// UNAVAILABLE, RESOURCE_EXHAUSTED: the request ended early, for the reason stated.
  virtual void OnDone(absl::Status status) = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKEN_SINK_H_
