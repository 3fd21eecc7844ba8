// PromptPieces: what a stream tells of the prompt, cut into messages of bounded size: first the
// prompt's log-probabilities, then the echo of each choice.
//
// Nothing is copied: pieces point into what all choices share.
//
// Thread safety: none; the owning encoder's.
#ifndef PARALLAX_SERVER_PROMPT_PIECES_H_
#define PARALLAX_SERVER_PROMPT_PIECES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "engine/token_sink.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax::server {

struct PromptPiece {
  std::optional<int32_t> choice = {};  // whose echo it is; unset: prompt log-probabilities
  std::string_view text = {};          // whole characters
  std::span<const int32_t> token_ids = {};
  std::span<const PositionLogprobs> logprobs = {};
};

class PromptPieces {
 public:
  PromptPieces() = default;  // none
  /// `tokenizer` as in output_size.h.
  PromptPieces(RequestStart start, int32_t num_choices, const Tokenizer* tokenizer);

  bool empty() const { return prompt_logprobs_ == nullptr && echo_ == nullptr; }
  /// Of at most kMaxChunkBytes and one position. Valid until the next call of a method that is
  /// not const. REQUIRES: !empty().
  PromptPiece Next();

 private:
  PromptPiece NextLogprobs();
  PromptPiece NextEcho();

  std::shared_ptr<const Logprobs> prompt_logprobs_;  // null once all were handed out
  std::shared_ptr<const Echo> echo_;                 // likewise
  std::shared_ptr<const void> last_;                 // what the last piece points into
  int32_t num_choices_ = 0;
  const Tokenizer* tokenizer_ = nullptr;
  int32_t choice_ = 0;    // whose echo is next
  size_t positions_ = 0;  // handed out, of the log-probabilities or of this choice's echo
  size_t text_bytes_ = 0;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_PROMPT_PIECES_H_
