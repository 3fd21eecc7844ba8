#include "clients/cpp/cli/generate_options.h"

#include <functional>
#include <utility>
#include <vector>

#include "clients/cpp/cli/command.h"

namespace parallax::client {
namespace {

using Reader = std::function<bool(const std::string&)>;

// A reader that parses a number and hands it to `set`.
template <typename Number, typename Set>
Reader Read(Set set) {
  return [set = std::move(set)](const std::string& text) {
    Number value;
    if (!ParseNumber(text, &value)) return false;
    set(value);
    return true;
  };
}

// A flag that can be left unset, set or cleared.
template <typename Set>
Reader ReadBool(Set set) {
  return [set = std::move(set)](const std::string& text) {
    if (text != "true" && text != "false") return false;
    set(text == "true");
    return true;
  };
}

template <typename Set>
Reader ReadText(Set set) {
  return [set = std::move(set)](const std::string& text) {
    set(text);
    return true;
  };
}

// "ID:BIAS"
bool ReadLogitBias(const std::string& text, v1::SamplingParams* sampling) {
  const size_t colon = text.find(':');
  int32_t id = 0;
  float bias = 0;
  if (colon == std::string::npos || !ParseNumber(text.substr(0, colon), &id) ||
      !ParseNumber(text.substr(colon + 1), &bias)) {
    return false;
  }
  (*sampling->mutable_logit_bias())[id] = bias;
  return true;
}

}  // namespace

void GenerateOptions::RegisterPrompt(ArgParser* parser) {
  parser->Section("Prompt (one of PROMPT and these)");
  parser->Option("prompt-file", "FILE", &prompt_file_, "Read the prompt from a file; - is stdin.");
  parser->Option("prompt-ids", "IDS", &prompt_ids_, "Token ids, as in 1,15,22.");
}

void GenerateOptions::RegisterParameters(ArgParser* parser) {
  RegisterSampling(parser);
  RegisterStopping(parser);
  RegisterOutput(parser);
  RegisterScheduling(parser);
}

void GenerateOptions::RegisterSampling(ArgParser* parser) {
  // mutable_* makes the sub-message present, which asks for nothing by itself.
  v1::SamplingParams* const s = request_.mutable_sampling();
  parser->Section("Sampling (unset: the model's defaults)");
  parser->Option("temperature", "T", Read<float>([s](float v) { s->set_temperature(v); }),
                 "0 = greedy.");
  parser->Option("top-k", "K", Read<int32_t>([s](int32_t v) { s->set_top_k(v); }),
                 "Only the K most likely tokens; 0 = off.");
  parser->Option("top-p", "P", Read<float>([s](float v) { s->set_top_p(v); }),
                 "The smallest set with this probability.");
  parser->Option("min-p", "P", Read<float>([s](float v) { s->set_min_p(v); }),
                 "At least this fraction of the likeliest.");
  parser->Option("repetition-penalty", "X",
                 Read<float>([s](float v) { s->set_repetition_penalty(v); }), "1 = off.");
  parser->Option("presence-penalty", "X", Read<float>([s](float v) { s->set_presence_penalty(v); }),
                 "0 = off.");
  parser->Option("frequency-penalty", "X",
                 Read<float>([s](float v) { s->set_frequency_penalty(v); }), "0 = off.");
  parser->Option(
      "logit-bias", "ID:BIAS", [s](const std::string& text) { return ReadLogitBias(text, s); },
      "Added to a token's logit; repeatable.");
  parser->Option("seed", "N", Read<uint64_t>([s](uint64_t v) { s->set_seed(v); }),
                 "Same seed, same tokens. Default: drawn.");
  parser->Option("n", "N", Read<int32_t>([s](int32_t v) { s->set_n(v); }), "Choices. Default 1.");
}

void GenerateOptions::RegisterStopping(ArgParser* parser) {
  v1::Stopping* const s = request_.mutable_stopping();
  parser->Section("Stopping");
  parser->Option("max-tokens", "N", Read<int32_t>([s](int32_t v) { s->set_max_tokens(v); }),
                 "Default: what the context leaves.");
  parser->Option("min-tokens", "N", Read<int32_t>([s](int32_t v) { s->set_min_tokens(v); }),
                 "No end of sequence before. Default 0.");
  parser->Option("stop", "TEXT", ReadText([s](const std::string& text) { s->add_stop(text); }),
                 "Stop at this text; repeatable.");
  parser->Option("stop-token-id", "ID", Read<int32_t>([s](int32_t v) { s->add_stop_token_ids(v); }),
                 "Stop at this token; repeatable.");
  parser->Option("ignore-eos", "true|false", ReadBool([s](bool v) { s->set_ignore_eos(v); }),
                 "Go on past the end of sequence.");
  parser->Option("include-stop", "true|false", ReadBool([s](bool v) { s->set_include_stop(v); }),
                 "Keep what matched in the text.");
}

void GenerateOptions::RegisterOutput(ArgParser* parser) {
  v1::OutputOptions* const o = request_.mutable_output();
  parser->Section("Output");
  parser->Option("logprobs", "K", Read<int32_t>([o](int32_t v) { o->set_logprobs(v); }),
                 "Log-probabilities, and of the K likeliest.");
  parser->Option("prompt-logprobs", "K",
                 Read<int32_t>([o](int32_t v) { o->set_prompt_logprobs(v); }),
                 "The same for the prompt.");
  parser->Option("echo", "true|false", ReadBool([o](bool v) { o->set_echo(v); }),
                 "The prompt comes first.");
  parser->Option("skip-special-tokens", "true|false",
                 ReadBool([o](bool v) { o->set_skip_special_tokens(v); }), "Default true.");
}

void GenerateOptions::RegisterScheduling(ArgParser* parser) {
  v1::Scheduling* const s = request_.mutable_scheduling();
  parser->Section("Scheduling");
  parser->Option("priority", "N", Read<int32_t>([s](int32_t v) { s->set_priority(v); }),
                 "Lower is sooner. Default 0.");
  parser->Option("tenant", "NAME", ReadText([s](const std::string& text) { s->set_tenant(text); }),
                 "Who shares cached prefixes.");
  parser->Option("partial-after-ms", "MS", Read<int64_t>([s](int64_t v) { s->set_timeout_ms(v); }),
                 "Return the text so far after this long.");
  parser->Option("request-id", "ID",
                 ReadText([this](const std::string& text) { request_.set_request_id(text); }),
                 "Default: the server makes one.");
  parser->Option("model", "NAME",
                 ReadText([this](const std::string& text) { request_.set_model(text); }),
                 "Refuse to talk to another model.");
}

bool GenerateOptions::BuildRequest(const std::optional<std::string>& prompt,
                                   Cancellation* interrupt, v1::GenerateRequest* request,
                                   std::string* error) const {
  *request = request_;
  if (prompt.has_value() + prompt_file_.has_value() + prompt_ids_.has_value() != 1) {
    *error = "give one prompt: PROMPT, --prompt-file or --prompt-ids";
    return false;
  }
  if (prompt_ids_) {
    std::vector<int32_t> ids;
    if (!ParseTokenIds(*prompt_ids_, &ids)) {
      *error = "--prompt-ids: \"" + *prompt_ids_ + "\" is not a list of token ids";
      return false;
    }
    request->mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
    return true;
  }
  if (prompt && *prompt != "-") {
    request->set_text(*prompt);
    return true;
  }
  const std::string path = prompt ? "-" : *prompt_file_;
  if (!ReadInput(path, interrupt, request->mutable_text())) {
    *error = "--prompt-file: cannot read " + path;
    return false;
  }
  return true;
}

}  // namespace parallax::client
