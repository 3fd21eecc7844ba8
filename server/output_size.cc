#include "server/output_size.h"

namespace parallax::server {
namespace {

// v1.TokenLogprob without the token's bytes: 6 for the id, 5 for the log-probability, and the tags
// and lengths of both message and bytes. Twice what it is in memory.
constexpr size_t kTokenLogprobBytes = 17;

constexpr size_t PositionBytes(size_t num_tokens) {
  return sizeof(PositionLogprobs) + num_tokens * kTokenLogprobBytes;
}

size_t TokenBytes(const TokenLogprob& token, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr || !tokenizer->IsValidId(token.token)) return 0;
  return tokenizer->TokenBytes(token.token).size();
}

size_t AllLogprobsBytes(const Logprobs* logprobs, const Tokenizer* tokenizer) {
  size_t bytes = 0;
  if (logprobs == nullptr) return bytes;
  for (const PositionLogprobs& position : *logprobs) bytes += LogprobsBytes(position, tokenizer);
  return bytes;
}

}  // namespace

size_t LogprobsBytes(const PositionLogprobs& position, const Tokenizer* tokenizer) {
  size_t bytes = PositionBytes(1 + position.top.size()) + TokenBytes(position.chosen, tokenizer);
  for (const TokenLogprob& token : position.top) bytes += TokenBytes(token, tokenizer);
  return bytes;
}

size_t DeltaBytes(const OutputDelta& delta, const Tokenizer* tokenizer) {
  return delta.text.size() + delta.token_ids.size() * kTokenIdBytes +
         AllLogprobsBytes(&delta.logprobs, tokenizer);
}

size_t PromptBytes(const RequestStart& start, size_t num_choices, const Tokenizer* tokenizer) {
  const size_t bytes = AllLogprobsBytes(start.prompt_logprobs.get(), tokenizer);
  if (start.echo == nullptr) return bytes;
  const Echo& echo = *start.echo;
  return bytes + num_choices * (echo.text.size() + echo.token_ids.size() * kTokenIdBytes +
                                AllLogprobsBytes(echo.logprobs.get(), tokenizer));
}

size_t LeastPromptBytes(size_t prompt_tokens, const SamplingParams& sampling) {
  const bool scored = sampling.prompt_logprobs.has_value();
  const size_t position =
      PositionBytes(1 + static_cast<size_t>(sampling.prompt_logprobs.value_or(0)));
  size_t bytes = scored ? position : 0;
  if (sampling.echo) {
    const size_t logprobs = !sampling.logprobs.has_value() ? 0 : position;
    bytes += static_cast<size_t>(sampling.n) * (1 + logprobs);  // an id of at least one byte
  }
  return prompt_tokens * bytes;
}

}  // namespace parallax::server
