#include "engine/sampling_params.h"

#include <cmath>
#include <unordered_set>

#include "absl/strings/str_cat.h"

namespace parallax {
namespace {

template <typename T>
absl::Status Outside(const char* field, T value, const char* range) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is outside ", range));
}

absl::Status CheckTokenId(const char* field, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": token id ", id, " is outside the vocabulary [0, ", vocab_size, ")"));
}

// Every comparison is written so that NaN fails it.
absl::Status CheckDistribution(const SamplingParams& p) {
  if (!(p.temperature >= 0.0f && p.temperature <= 100.0f)) {
    return Outside("temperature", p.temperature, "[0, 100]");
  }
  if (p.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k: ", p.top_k, " is negative (0 switches it off)"));
  }
  if (!(p.top_p > 0.0f && p.top_p <= 1.0f)) return Outside("top_p", p.top_p, "(0, 1]");
  if (!(p.min_p >= 0.0f && p.min_p <= 1.0f)) return Outside("min_p", p.min_p, "[0, 1]");
  if (!(p.repetition_penalty >= SamplingParams::kMinRepetitionPenalty &&
        p.repetition_penalty <= 10.0f)) {
    return Outside("repetition_penalty", p.repetition_penalty, "[0.001, 10]");
  }
  if (!(p.presence_penalty >= -2.0f && p.presence_penalty <= 2.0f)) {
    return Outside("presence_penalty", p.presence_penalty, "[-2, 2]");
  }
  if (!(p.frequency_penalty >= -2.0f && p.frequency_penalty <= 2.0f)) {
    return Outside("frequency_penalty", p.frequency_penalty, "[-2, 2]");
  }
  return absl::OkStatus();
}

absl::Status CheckLogitBias(const SamplingParams& p, int32_t vocab_size) {
  if (p.logit_bias.size() > SamplingParams::kMaxLogitBias) {
    return absl::InvalidArgumentError(absl::StrCat("logit_bias: ", p.logit_bias.size(),
                                                   " entries, at most ",
                                                   SamplingParams::kMaxLogitBias, " are allowed"));
  }
  std::unordered_set<int32_t> seen;
  for (const auto& [id, bias] : p.logit_bias) {
    if (absl::Status s = CheckTokenId("logit_bias", id, vocab_size); !s.ok()) return s;
    if (!(bias >= -100.0f && bias <= 100.0f)) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: ", bias, " for token id ", id, " is outside [-100, 100]"));
    }
    if (!seen.insert(id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: token id ", id, " appears twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLengths(const SamplingParams& p) {
  if (p.n < 1 || p.n > SamplingParams::kMaxChoices) {
    return absl::InvalidArgumentError(
        absl::StrCat("n: ", p.n, " is outside [1, ", SamplingParams::kMaxChoices, "]"));
  }
  if (p.max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens: ", p.max_tokens, " is below 1"));
  }
  if (p.min_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("min_tokens: ", p.min_tokens, " is negative"));
  }
  if (p.min_tokens > p.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_tokens: ", p.min_tokens, " is more than max_tokens ", p.max_tokens));
  }
  return absl::OkStatus();
}

absl::Status CheckStopStrings(const SamplingParams& p) {
  if (p.stop_strings.size() > SamplingParams::kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop: ", p.stop_strings.size(), " strings, at most ",
                     SamplingParams::kMaxStopStrings, " are allowed"));
  }
  for (size_t i = 0; i < p.stop_strings.size(); ++i) {
    const std::string& stop = p.stop_strings[i];
    if (stop.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("stop: string ", i, " is empty"));
    }
    if (stop.size() > SamplingParams::kMaxStopStringBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop: string ", i, " has ", stop.size(), " bytes, at most ",
                       SamplingParams::kMaxStopStringBytes, " are allowed"));
    }
    for (size_t j = 0; j < i; ++j) {
      if (p.stop_strings[j] != stop) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("stop: string ", i, " is string ", j, " again"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStopTokens(const SamplingParams& p, int32_t vocab_size) {
  if (p.stop_token_ids.size() > SamplingParams::kMaxStopTokens) {
    return absl::InvalidArgumentError(absl::StrCat("stop_token_ids: ", p.stop_token_ids.size(),
                                                   " ids, at most ", SamplingParams::kMaxStopTokens,
                                                   " are allowed"));
  }
  for (int32_t id : p.stop_token_ids) {
    if (absl::Status s = CheckTokenId("stop_token_ids", id, vocab_size); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckTopLogprobs(const char* field, const std::optional<int32_t>& k) {
  if (!k.has_value() || (*k >= 0 && *k <= SamplingParams::kMaxLogprobs)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": ", *k, " is outside [0, ", SamplingParams::kMaxLogprobs, "]"));
}

}  // namespace

absl::Status ValidateSamplingParams(const SamplingParams& params, int32_t vocab_size) {
  if (absl::Status s = CheckDistribution(params); !s.ok()) return s;
  if (absl::Status s = CheckLogitBias(params, vocab_size); !s.ok()) return s;
  if (absl::Status s = CheckLengths(params); !s.ok()) return s;
  if (absl::Status s = CheckStopStrings(params); !s.ok()) return s;
  if (absl::Status s = CheckStopTokens(params, vocab_size); !s.ok()) return s;
  if (absl::Status s = CheckTopLogprobs("logprobs", params.logprobs); !s.ok()) return s;
  return CheckTopLogprobs("prompt_logprobs", params.prompt_logprobs);
}

}  // namespace parallax
