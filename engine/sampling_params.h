// What a request asks of the sampler and of the end of its text.
//
// Plain data, immutable once the request is submitted. The defaults here are the
// documented defaults of the wire contract (proto/parallax/v1/inference.proto).
// ValidateSamplingParams is the one place that knows the ranges.
#ifndef PARALLAX_ENGINE_SAMPLING_PARAMS_H_
#define PARALLAX_ENGINE_SAMPLING_PARAMS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace parallax {

struct SamplingParams {
  static constexpr int kMaxLogprobs = 20;
  static constexpr int kMaxStopStrings = 16;
  static constexpr int kMaxStopStringBytes = 256;
  static constexpr int kMaxStopTokens = 64;
  static constexpr int kMaxLogitBias = 1024;
  static constexpr int kMaxChoices = 64;
  // Below it, dividing a logit by the penalty may overflow.
  static constexpr float kMinRepetitionPenalty = 1e-3f;

  // Distribution. temperature 0 is greedy: the highest logit, the lowest id on ties.
  float temperature = 1.0f;                           // [0, 100]
  int32_t top_k = 0;                                  // 0 = off; else >= 1
  float top_p = 1.0f;                                 // (0, 1]
  float min_p = 0.0f;                                 // [0, 1]
  float repetition_penalty = 1.0f;                    // [0.001, 10]; over prompt and output tokens
  float presence_penalty = 0.0f;                      // [-2, 2]; over output tokens
  float frequency_penalty = 0.0f;                     // [-2, 2]; over output tokens
  std::vector<std::pair<int32_t, float>> logit_bias;  // unique ids; bias in [-100, 100]
  /// The random stream is a function of (seed, choice index, position) alone.
  uint64_t seed = 0;

  int32_t n = 1;  // choices, [1, kMaxChoices]

  // The end of the text.
  int32_t max_tokens = 0;  // resolved before submission: >= 1
  int32_t min_tokens = 0;  // EOS and stop tokens are masked, stop strings ignored, before this many
  std::vector<std::string> stop_strings;  // non-empty, unique
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;        // keep the matched stop string or token in the text
  bool skip_special_tokens = true;  // special tokens give no text

  // Log-probabilities of the model's distribution (log-softmax of the raw logits).
  // nullopt = none; k >= 0 = the chosen token's and the k most likely tokens'.
  std::optional<int32_t> logprobs;         // [0, kMaxLogprobs]
  std::optional<int32_t> prompt_logprobs;  // [0, kMaxLogprobs]
  bool echo = false;  // the prompt's text (and its logprobs, if asked for) comes first

  bool HasPenalties() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

/// INVALID_ARGUMENT naming the field and the value of the first parameter that is out of
/// range or contradicts another. `vocab_size` bounds the token ids.
absl::Status ValidateSamplingParams(const SamplingParams& params, int32_t vocab_size);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SAMPLING_PARAMS_H_
