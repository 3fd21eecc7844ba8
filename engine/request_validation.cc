#include "engine/request_validation.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace parallax {
namespace {

absl::Status CheckPrompt(const Request& request, int32_t vocab_size) {
  if (request.prompt.empty()) return absl::InvalidArgumentError("prompt: no tokens");
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    const int32_t id = request.prompt[i];
    if (id >= 0 && id < vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat("prompt: token id ", id, " at position ", i,
                                                   " is outside the vocabulary [0, ", vocab_size,
                                                   ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckScheduling(const Request& request) {
  if (request.priority < Request::kMinPriority || request.priority > Request::kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority: ", request.priority, " is outside [",
                                                   Request::kMinPriority, ", ",
                                                   Request::kMaxPriority, "]"));
  }
  if (request.adapter_id != 0) {
    return absl::InvalidArgumentError(absl::StrCat("adapter_id: ", request.adapter_id,
                                                   " is not served (only 0, the base model)"));
  }
  if (request.timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "timeout_ms: ", absl::ToInt64Milliseconds(request.timeout), " is not positive"));
  }
  return absl::OkStatus();
}

absl::Status CheckTextOptions(const SamplingParams& sampling) {
  const char* field = nullptr;
  if (!sampling.stop_strings.empty()) field = "stop";
  if (sampling.include_stop) field = "include_stop";
  if (!sampling.skip_special_tokens) field = "skip_special_tokens";
  if (field == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": the model has no tokenizer, so there is no text"));
}

}  // namespace

absl::Status ValidateRequest(const Request& request, int32_t vocab_size, bool has_tokenizer) {
  if (request.id.empty()) return absl::InvalidArgumentError("request_id: empty");
  if (absl::Status s = CheckPrompt(request, vocab_size); !s.ok()) return s;
  if (absl::Status s = CheckScheduling(request); !s.ok()) return s;
  if (absl::Status s = ValidateSamplingParams(request.sampling, vocab_size); !s.ok()) return s;
  return has_tokenizer ? absl::OkStatus() : CheckTextOptions(request.sampling);
}

}  // namespace parallax
