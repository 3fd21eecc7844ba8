#include "server/prompt_excerpt.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace parallax::server {

PromptExcerpt ExcerptPrompt(std::span<const int32_t> prompt, const Tokenizer* tokenizer) {
  // No more than that is looked at: few tokens are empty.
  const std::span<const int32_t> first = prompt.first(std::min(prompt.size(), kMaxExcerptBytes));
  PromptExcerpt excerpt;
  if (tokenizer != nullptr) {
    excerpt.text = tokenizer->Decode(first, /*skip_special_tokens=*/false);
  } else {
    for (const int32_t id : first) {
      absl::StrAppend(&excerpt.text, excerpt.text.empty() ? "" : " ", id);
    }
  }
  excerpt.is_cut = first.size() < prompt.size() || excerpt.text.size() > kMaxExcerptBytes;
  excerpt.text.resize(std::min(excerpt.text.size(), kMaxExcerptBytes));
  return excerpt;
}

}  // namespace parallax::server
