// IncrementalDetokenizer: the text of one sequence, token by token.
//
// Each delta is whole UTF-8 characters. Bytes that may yet become a character are held back
// (three at most); ill-formed ones become U+FFFD, one for each maximal subpart, as Unicode
// recommends. The concatenated deltas are what Tokenizer::Decode gives for all ids at once.
//
// Thread safety: none; one owner at a time. The tokenizer must outlive it.
// Cost: appends to the caller's string and nothing else; reuse that string.
#ifndef PARALLAX_ENGINE_TOKENIZER_INCREMENTAL_DETOKENIZER_H_
#define PARALLAX_ENGINE_TOKENIZER_INCREMENTAL_DETOKENIZER_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/tokenizer/tokenizer.h"

namespace parallax {

class IncrementalDetokenizer {
 public:
  /// `prompt`: the ids the sequence continues; they give no text themselves. A prompt that has
  /// text keeps the first token's space, and a character that its last tokens begin is emitted
  /// whole once the sequence completes it.
  IncrementalDetokenizer(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                         bool skip_special_tokens);

  /// Appends to `text` what `id` makes known. Ids that are not valid give nothing.
  void Append(int32_t id, std::string* text);

  /// Ends the sequence: an unfinished character becomes U+FFFD. Append must not follow.
  void Flush(std::string* text);

 private:
  bool IsSkipped(int32_t id) const { return skip_special_tokens_ && tokenizer_->IsSpecial(id); }
  std::string_view DropLeadingSpace(int32_t id, std::string_view bytes);
  void AppendBytes(std::string_view bytes, std::string* text);
  void CompletePending(std::string_view* bytes, std::string* text);

  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  bool at_text_start_;  // LeadingSpace still has a say
  int pending_size_ = 0;
  char pending_[4] = {};  // the unfinished character, 3 bytes at most
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_INCREMENTAL_DETOKENIZER_H_
