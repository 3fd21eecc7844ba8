#include "server/vllm/vllm_request.h"

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/string_view.h"
#include "server/unknown_fields.h"

namespace parallax::server {
namespace {

namespace wire = ::vllm::grpc::engine;

absl::Status Unsupported(std::string_view field, std::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat(ToAbsl(field), ": ", ToAbsl(what), " not supported by this server"));
}

absl::Status CheckInt32(std::string_view field, uint32_t value) {
  if (value <= static_cast<uint32_t>(std::numeric_limits<int32_t>::max())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(ToAbsl(field), ": ", value, " is too large"));
}

absl::Status CheckConstraint(const wire::SamplingParams& params) {
  using Params = wire::SamplingParams;
  static constexpr std::string_view kWhat = "structured output is";
  switch (params.constraint_case()) {
    case Params::kJsonSchema:
      return Unsupported("sampling_params.json_schema", kWhat);
    case Params::kRegex:
      return Unsupported("sampling_params.regex", kWhat);
    case Params::kGrammar:
      return Unsupported("sampling_params.grammar", kWhat);
    case Params::kStructuralTag:
      return Unsupported("sampling_params.structural_tag", kWhat);
    case Params::kJsonObject:
      return Unsupported("sampling_params.json_object", kWhat);
    case Params::kChoice:
      return Unsupported("sampling_params.choice", kWhat);
    case Params::CONSTRAINT_NOT_SET:
      break;
  }
  return absl::OkStatus();
}

absl::Status CheckSupported(const wire::GenerateRequest& request) {
  if (request.has_mm_inputs()) return Unsupported("mm_inputs", "media are");
  if (request.extra_mm_inputs_size() > 0) return Unsupported("extra_mm_inputs", "media are");
  if (request.has_media_refs()) return Unsupported("media_refs", "media are");
  if (request.has_kv_transfer_params()) {
    return Unsupported("kv_transfer_params", "prefill and decode on different workers are");
  }
  if (request.has_kv_transfer_params_json()) {
    return Unsupported("kv_transfer_params_json", "prefill and decode on different workers are");
  }
  if (request.data_parallel_rank() != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data_parallel_rank: ", request.data_parallel_rank(), ", this worker has rank 0 only"));
  }
  if (request.sampling_params().has_truncate_prompt_tokens()) {
    return Unsupported("sampling_params.truncate_prompt_tokens", "truncating prompts is");
  }
  return CheckConstraint(request.sampling_params());
}

absl::Status CheckNumbers(const wire::GenerateRequest& request) {
  const wire::SamplingParams& params = request.sampling_params();
  const std::array<std::pair<std::string_view, uint32_t>, 4> numbers = {{
      {"sampling_params.top_k", params.top_k()},
      {"sampling_params.max_tokens", params.max_tokens()},
      {"sampling_params.min_tokens", params.min_tokens()},
      {"sampling_params.n", params.n()},
  }};
  for (const auto& [field, value] : numbers) {
    if (absl::Status s = CheckInt32(field, value); !s.ok()) return s;
  }
  for (const uint32_t id : params.stop_token_ids()) {
    if (absl::Status s = CheckInt32("sampling_params.stop_token_ids", id); !s.ok()) return s;
  }
  for (const uint32_t id : request.tokenized().input_ids()) {
    if (absl::Status s = CheckInt32("tokenized.input_ids", id); !s.ok()) return s;
  }
  return absl::OkStatus();
}

void CopySampling(const wire::SamplingParams& from, v1::SamplingParams* to) {
  to->set_temperature(from.has_temperature() ? from.temperature() : 1.0f);
  to->set_top_p(from.top_p() == 0.0f ? 1.0f : from.top_p());
  to->set_top_k(static_cast<int32_t>(from.top_k()));
  to->set_min_p(from.min_p());
  to->set_frequency_penalty(from.frequency_penalty());
  to->set_presence_penalty(from.presence_penalty());
  to->set_repetition_penalty(from.repetition_penalty() == 0.0f ? 1.0f : from.repetition_penalty());
  to->set_n(from.n() == 0 ? 1 : static_cast<int32_t>(from.n()));
  if (from.has_seed()) to->set_seed(static_cast<uint32_t>(from.seed()));
  *to->mutable_logit_bias() = from.logit_bias();
}

void CopyStopping(const wire::SamplingParams& from, v1::Stopping* to) {
  if (from.has_max_tokens()) to->set_max_tokens(static_cast<int32_t>(from.max_tokens()));
  to->set_min_tokens(static_cast<int32_t>(from.min_tokens()));
  *to->mutable_stop() = from.stop();
  to->mutable_stop_token_ids()->Add(from.stop_token_ids().begin(), from.stop_token_ids().end());
  to->set_ignore_eos(from.ignore_eos());
  to->set_include_stop(from.include_stop_str_in_output());
}

void CopyOutput(const wire::SamplingParams& from, v1::OutputOptions* to) {
  if (from.has_logprobs()) to->set_logprobs(from.logprobs());
  if (from.has_prompt_logprobs()) to->set_prompt_logprobs(from.prompt_logprobs());
  // The contract carries no text: this matters only to what stop strings are looked for in, and
  // a model without a tokenizer refuses to hear of it.
  if (from.stop_size() > 0) to->set_skip_special_tokens(from.skip_special_tokens());
}

void CopyInput(const wire::GenerateRequest& from, v1::GenerateRequest* to) {
  if (from.has_text()) {
    to->set_text(from.text());
  } else if (from.has_tokenized()) {
    to->mutable_token_ids()->mutable_ids()->Add(from.tokenized().input_ids().begin(),
                                                from.tokenized().input_ids().end());
  }
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> FromVllmRequest(const wire::GenerateRequest& request) {
  if (absl::Status s = CheckSupported(request); !s.ok()) return s;
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  if (absl::Status s = CheckNumbers(request); !s.ok()) return s;
  v1::GenerateRequest own;
  if (!request.request_id().empty()) own.set_request_id(request.request_id());
  CopyInput(request, &own);
  CopySampling(request.sampling_params(), own.mutable_sampling());
  CopyStopping(request.sampling_params(), own.mutable_stopping());
  CopyOutput(request.sampling_params(), own.mutable_output());
  return own;
}

absl::Status WithVllmFieldNames(const absl::Status& status) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kNames = {{
      {"stopping.include_stop:", "sampling_params.include_stop_str_in_output:"},
      {"sampling.", "sampling_params."},
      {"stopping.", "sampling_params."},
      {"output.", "sampling_params."},
      {"token_ids.ids:", "tokenized.input_ids:"},
      {"prompt: set text or token_ids", "input: set tokenized or text"},
  }};
  const std::string_view message(status.message().data(), status.message().size());
  for (const auto& [own, theirs] : kNames) {
    if (!message.starts_with(own)) continue;
    absl::Status renamed(status.code(),
                         absl::StrCat(ToAbsl(theirs), ToAbsl(message.substr(own.size()))));
    status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
      renamed.SetPayload(url, payload);
    });
    return renamed;
  }
  return status;
}

}  // namespace parallax::server
