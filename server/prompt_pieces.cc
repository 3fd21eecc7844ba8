#include "server/prompt_pieces.h"

#include <utility>

#include "server/output_size.h"

namespace parallax::server {
namespace {

// The longest beginning of `text` of at most `max_bytes` that ends with a whole character.
std::string_view CutText(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

}  // namespace

PromptPieces::PromptPieces(RequestStart start, int32_t num_choices, const Tokenizer* tokenizer)
    : prompt_logprobs_(std::move(start.prompt_logprobs)),
      echo_(std::move(start.echo)),
      num_choices_(num_choices),
      tokenizer_(tokenizer) {}

PromptPiece PromptPieces::Next() {
  return prompt_logprobs_ != nullptr ? NextLogprobs() : NextEcho();
}

PromptPiece PromptPieces::NextLogprobs() {
  const std::span<const PositionLogprobs> all = *prompt_logprobs_;
  const size_t begin = positions_;
  for (size_t bytes = 0; positions_ < all.size() && bytes < kMaxChunkBytes; ++positions_) {
    bytes += LogprobsBytes(all[positions_], tokenizer_);
  }
  const PromptPiece piece{.logprobs = all.subspan(begin, positions_ - begin)};
  last_ = prompt_logprobs_;
  if (positions_ == all.size()) {
    prompt_logprobs_ = nullptr;
    positions_ = 0;
  }
  return piece;
}

PromptPiece PromptPieces::NextEcho() {
  const std::span<const int32_t> ids = echo_->token_ids;
  const size_t begin = positions_;
  PromptPiece piece{.choice = choice_};
  piece.text = CutText(std::string_view(echo_->text).substr(text_bytes_), kMaxChunkBytes);
  text_bytes_ += piece.text.size();
  for (size_t bytes = piece.text.size(); positions_ < ids.size() && bytes < kMaxChunkBytes;
       ++positions_) {
    bytes += kTokenIdBytes;
    if (echo_->logprobs == nullptr) continue;
    bytes += LogprobsBytes((*echo_->logprobs)[positions_], tokenizer_);
  }
  piece.token_ids = ids.subspan(begin, positions_ - begin);
  if (echo_->logprobs != nullptr) {
    piece.logprobs = std::span(*echo_->logprobs).subspan(begin, positions_ - begin);
  }
  last_ = echo_;
  if (positions_ == ids.size() && text_bytes_ == echo_->text.size()) {
    positions_ = text_bytes_ = 0;
    if (++choice_ == num_choices_) echo_ = nullptr;
  }
  return piece;
}

}  // namespace parallax::server
