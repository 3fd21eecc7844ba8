// PromptExcerpt: what --log-prompts writes of a prompt.
//
// Thread safety: pure function; Tokenizer is const.
#ifndef PARALLAX_SERVER_PROMPT_EXCERPT_H_
#define PARALLAX_SERVER_PROMPT_EXCERPT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "engine/tokenizer/tokenizer.h"

namespace parallax::server {

inline constexpr size_t kMaxExcerptBytes = 2048;

struct PromptExcerpt {
  std::string text;  // at most kMaxExcerptBytes; any bytes, the log's to quote
  bool is_cut = false;
};

/// The beginning of the prompt as the model sees it, special tokens included; without a tokenizer
/// its token ids in decimal.
PromptExcerpt ExcerptPrompt(std::span<const int32_t> prompt, const Tokenizer* tokenizer);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_PROMPT_EXCERPT_H_
