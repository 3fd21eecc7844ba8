#include "server/request_builder.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/output_size.h"
#include "server/string_view.h"

namespace parallax::server {
namespace {

template <typename... Parts>
absl::Status Invalid(std::string_view field, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(ToAbsl(field), ": ", parts...));
}

// Copies a set optional field over a default.
template <typename T, typename Value>
void Override(bool is_set, const Value& value, T* target) {
  if (is_set) *target = value;
}

SamplingParams CopyDistribution(const v1::SamplingParams& wire, const SamplingParams& defaults) {
  SamplingParams params;
  params.temperature = wire.has_temperature() ? wire.temperature() : defaults.temperature;
  params.top_k = wire.has_top_k() ? wire.top_k() : defaults.top_k;
  params.top_p = wire.has_top_p() ? wire.top_p() : defaults.top_p;
  params.min_p = wire.has_min_p() ? wire.min_p() : defaults.min_p;
  params.repetition_penalty =
      wire.has_repetition_penalty() ? wire.repetition_penalty() : defaults.repetition_penalty;
  Override(wire.has_presence_penalty(), wire.presence_penalty(), &params.presence_penalty);
  Override(wire.has_frequency_penalty(), wire.frequency_penalty(), &params.frequency_penalty);
  Override(wire.has_n(), wire.n(), &params.n);
  params.logit_bias.assign(wire.logit_bias().begin(), wire.logit_bias().end());
  std::sort(params.logit_bias.begin(), params.logit_bias.end());  // maps have no order
  return params;
}

void CopyStopping(const v1::Stopping& wire, SamplingParams* params) {
  Override(wire.has_max_tokens(), wire.max_tokens(), &params->max_tokens);
  Override(wire.has_min_tokens(), wire.min_tokens(), &params->min_tokens);
  Override(wire.has_ignore_eos(), wire.ignore_eos(), &params->ignore_eos);
  Override(wire.has_include_stop(), wire.include_stop(), &params->include_stop);
  params->stop_strings.assign(wire.stop().begin(), wire.stop().end());
  params->stop_token_ids.assign(wire.stop_token_ids().begin(), wire.stop_token_ids().end());
}

void CopyOutput(const v1::OutputOptions& wire, SamplingParams* params) {
  Override(wire.has_logprobs(), wire.logprobs(), &params->logprobs);
  Override(wire.has_prompt_logprobs(), wire.prompt_logprobs(), &params->prompt_logprobs);
  Override(wire.has_echo(), wire.echo(), &params->echo);
  Override(wire.has_skip_special_tokens(), wire.skip_special_tokens(),
           &params->skip_special_tokens);
}

// ValidateSamplingParams names a field as the engine does; on the wire it has a parent.
absl::Status WithWirePath(const absl::Status& status) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kParents = {{
      {"temperature", "sampling"},
      {"top_k", "sampling"},
      {"top_p", "sampling"},
      {"min_p", "sampling"},
      {"repetition_penalty", "sampling"},
      {"presence_penalty", "sampling"},
      {"frequency_penalty", "sampling"},
      {"logit_bias", "sampling"},
      {"n", "sampling"},
      {"max_tokens", "stopping"},
      {"min_tokens", "stopping"},
      {"stop", "stopping"},
      {"stop_token_ids", "stopping"},
      {"logprobs", "output"},
      {"prompt_logprobs", "output"},
      {"skip_special_tokens", "output"},
  }};
  const std::string message(status.message());
  const std::string field = message.substr(0, message.find(':'));
  for (const auto& [name, parent] : kParents) {
    if (field != name) continue;
    return absl::Status(status.code(), absl::StrCat(ToAbsl(parent), ".", message));
  }
  return status;
}

absl::Status CheckModelTokens(const SamplingParams& params, const ServedModel& model) {
  for (const auto& [id, bias] : params.logit_bias) {
    if (absl::Status s = CheckTokenId("sampling.logit_bias", id, model); !s.ok()) return s;
  }
  for (const int32_t id : params.stop_token_ids) {
    if (absl::Status s = CheckTokenId("stopping.stop_token_ids", id, model); !s.ok()) return s;
  }
  if (model.tokenizer == nullptr && !params.stop_strings.empty()) {
    return Invalid("stopping.stop", params.stop_strings.size(),
                   " strings cannot be looked for: the model has no tokenizer");
  }
  return absl::OkStatus();
}

// What is left of the context is the default of max_tokens, and its bound.
absl::Status ResolveMaxTokens(bool is_set, size_t prompt_tokens, const ServedModel& model,
                              SamplingParams* params) {
  const int32_t room = model.max_context_tokens - static_cast<int32_t>(prompt_tokens);
  if (!is_set) params->max_tokens = room;
  if (params->max_tokens <= room) return absl::OkStatus();
  return Invalid("stopping.max_tokens", params->max_tokens, " and the prompt's ", prompt_tokens,
                 " tokens exceed the context of ", model.max_context_tokens, " tokens");
}

absl::StatusOr<SamplingParams> BuildSamplingParams(const v1::GenerateRequest& wire,
                                                   size_t prompt_tokens, const ServedModel& model,
                                                   const RequestLimits& limits,
                                                   uint64_t fallback_seed) {
  SamplingParams params = CopyDistribution(wire.sampling(), model.default_sampling);
  params.seed = wire.sampling().has_seed() ? wire.sampling().seed() : fallback_seed;
  CopyStopping(wire.stopping(), &params);
  CopyOutput(wire.output(), &params);
  if (params.n > limits.max_choices) {
    return Invalid("sampling.n", params.n, " is more than this server's limit of ",
                   limits.max_choices);
  }
  const bool has_max_tokens = wire.stopping().has_max_tokens();
  if (absl::Status s = ResolveMaxTokens(has_max_tokens, prompt_tokens, model, &params); !s.ok()) {
    return s;
  }
  if (absl::Status s = ValidateSamplingParams(params, model.vocab_size); !s.ok()) {
    return WithWirePath(s);
  }
  if (absl::Status s = CheckModelTokens(params, model); !s.ok()) return s;
  return params;
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const std::string& text, const ServedModel& model) {
  if (model.tokenizer == nullptr) {
    return Invalid("text", "the model has no tokenizer; send token_ids");
  }
  absl::StatusOr<std::vector<int32_t>> ids =
      model.tokenizer->Encode(text, /*add_special_tokens=*/true);
  if (ids.ok()) return ids;
  return absl::Status(ids.status().code(), absl::StrCat("text: ", ids.status().message()));
}

absl::StatusOr<std::vector<int32_t>> CopyTokenIds(const v1::TokenIds& wire,
                                                  const ServedModel& model) {
  for (int i = 0; i < wire.ids_size(); ++i) {
    if (absl::Status s = CheckTokenId("token_ids.ids", wire.ids(i), model); !s.ok()) {
      return absl::Status(s.code(), absl::StrCat(s.message(), " (position ", i, ")"));
    }
  }
  return std::vector<int32_t>(wire.ids().begin(), wire.ids().end());
}

absl::StatusOr<std::vector<int32_t>> BuildPrompt(const v1::GenerateRequest& wire,
                                                 const ServedModel& model,
                                                 const RequestLimits& limits) {
  const bool is_text = wire.prompt_case() == v1::GenerateRequest::kText;
  if (wire.prompt_case() == v1::GenerateRequest::PROMPT_NOT_SET) {
    return Invalid("prompt", "set text or token_ids");
  }
  // A token never stands for more than some tens of bytes, but a byte may be a token: only
  // the count after encoding can be compared.
  absl::StatusOr<std::vector<int32_t>> ids =
      is_text ? EncodeText(wire.text(), model) : CopyTokenIds(wire.token_ids(), model);
  if (!ids.ok()) return ids;
  const std::string_view field = is_text ? "text" : "token_ids.ids";
  if (ids->empty()) return Invalid(field, "the prompt has 0 tokens, at least 1 is needed");
  if (ids->size() > static_cast<size_t>(limits.max_prompt_tokens)) {
    return Invalid(field, "the prompt has ", ids->size(), " tokens, at most ",
                   limits.max_prompt_tokens, " are allowed");
  }
  return ids;
}

absl::Status ApplyScheduling(const v1::Scheduling& wire, Request* request) {
  if (wire.priority() < -100 || wire.priority() > 100) {
    return Invalid("scheduling.priority", wire.priority(), " is outside [-100, 100]");
  }
  request->priority = wire.priority();
  if (wire.tenant().size() > kMaxTenantBytes) {
    return Invalid("scheduling.tenant", wire.tenant().size(), " bytes, at most ", kMaxTenantBytes,
                   " are allowed");
  }
  // Scoped by the caller: naming another caller's tenant must not reach its cached prefixes.
  request->tenant = absl::StrCat(request->principal, absl::string_view("\0", 1), wire.tenant());
  if (!wire.has_timeout_ms()) return absl::OkStatus();
  if (wire.timeout_ms() <= 0) {
    return Invalid("scheduling.timeout_ms", wire.timeout_ms(), " is not more than 0");
  }
  request->timeout = absl::Milliseconds(wire.timeout_ms());
  return absl::OkStatus();
}

// An echo waits for its reader outside of the outbox's bound.
absl::Status CheckPromptOutput(const Request& request, const RequestLimits& limits) {
  const SamplingParams& sampling = request.sampling;
  const size_t bytes = LeastPromptBytes(request.prompt.size(), sampling);
  if (bytes <= limits.max_response_bytes) return absl::OkStatus();
  return Invalid(sampling.echo ? "output.echo" : "output.prompt_logprobs", "with ",
                 request.prompt.size(), " prompt tokens and n = ", sampling.n,
                 " it takes at least ", bytes, " bytes, at most ", limits.max_response_bytes,
                 " are allowed");
}

absl::Status CheckModelName(const v1::GenerateRequest& wire, const ServedModel& model) {
  if (!wire.has_model() || wire.model() == model.name) return absl::OkStatus();
  constexpr size_t kShown = 128;
  return absl::NotFoundError(absl::StrCat("model: \"", wire.model().substr(0, kShown),
                                          "\" is not served here; \"", model.name, "\" is"));
}

}  // namespace

absl::Status CheckRequestId(std::string_view field, std::string_view id) {
  if (id.empty() || id.size() > kMaxRequestIdBytes) {
    return Invalid(field, id.size(), " bytes, 1 to ", kMaxRequestIdBytes, " are allowed");
  }
  for (size_t i = 0; i < id.size(); ++i) {
    const auto byte = static_cast<unsigned char>(id[i]);
    if (byte >= 0x20 && byte < 0x7f) continue;
    return Invalid(field, "byte ", static_cast<int>(byte), " at ", i, " is not printable ASCII");
  }
  return absl::OkStatus();
}

absl::Status CheckTokenId(std::string_view field, int32_t id, const ServedModel& model) {
  if (id < 0 || id >= model.vocab_size) {
    return Invalid(field, id, " is outside the vocabulary [0, ", model.vocab_size, ")");
  }
  if (model.tokenizer != nullptr && !model.tokenizer->IsValidId(id)) {
    return Invalid(field, id, " is not defined by the model's tokenizer");
  }
  return absl::OkStatus();
}

absl::StatusOr<Request> BuildRequest(const v1::GenerateRequest& wire, const ServedModel& model,
                                     const RequestLimits& limits, CallFacts facts) {
  if (absl::Status s = CheckModelName(wire, model); !s.ok()) return s;
  if (wire.has_request_id()) {
    if (absl::Status s = CheckRequestId("request_id", wire.request_id()); !s.ok()) return s;
  }
  Request request;
  request.id = wire.has_request_id() ? wire.request_id() : std::move(facts.fallback_id);
  request.principal = std::move(facts.principal);
  request.arrival = facts.arrival;
  request.deadline = facts.deadline;
  if (absl::Status s = ApplyScheduling(wire.scheduling(), &request); !s.ok()) return s;

  absl::StatusOr<std::vector<int32_t>> prompt = BuildPrompt(wire, model, limits);
  if (!prompt.ok()) return prompt.status();
  absl::StatusOr<SamplingParams> sampling =
      BuildSamplingParams(wire, prompt->size(), model, limits, facts.fallback_seed);
  if (!sampling.ok()) return sampling.status();
  request.prompt = *std::move(prompt);
  request.prompt_is_empty_text =
      wire.prompt_case() == v1::GenerateRequest::kText && wire.text().empty();
  request.sampling = *std::move(sampling);
  if (absl::Status s = CheckPromptOutput(request, limits); !s.ok()) return s;
  return request;
}

}  // namespace parallax::server
