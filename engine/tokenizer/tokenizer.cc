#include "engine/tokenizer/tokenizer.h"

#include <utility>

#include "engine/tokenizer/incremental_detokenizer.h"

namespace parallax {

Tokenizer::Tokenizer(TokenTable tokens, LeadingSpace leading_space, std::optional<int32_t> bos_id,
                     std::optional<int32_t> eos_id)
    : tokens_(std::move(tokens)), leading_space_(leading_space), bos_id_(bos_id), eos_id_(eos_id) {}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  IncrementalDetokenizer detokenizer(*this, /*prompt=*/{}, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) detokenizer.Append(id, &text);
  detokenizer.Flush(&text);
  return text;
}

}  // namespace parallax
