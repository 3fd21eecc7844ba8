// TokenTable: what every token of a vocabulary contributes to text, by id.
//
// Filled once at load; then immutable and safe for any number of threads. Look-ups are two
// array reads, as the engine does one for each generated token.
#ifndef PARALLAX_ENGINE_TOKENIZER_TOKEN_TABLE_H_
#define PARALLAX_ENGINE_TOKENIZER_TOKEN_TABLE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace parallax {

struct TokenEntry {
  std::string bytes;
  bool present = false;     // false: a hole between ids that the tokenizer does not define
  bool special = false;     // control tokens: no text under skip_special_tokens
  bool space_mark = false;  // SentencePiece's word-boundary mark gave the leading space
};

class TokenTable {
 public:
  /// Entry i describes token id i. Ids outside of `entries`, and holes, are invalid.
  explicit TokenTable(std::span<const TokenEntry> entries);

  int32_t size() const { return static_cast<int32_t>(flags_.size()); }
  bool IsValid(int32_t id) const { return (Flags(id) & kPresent) != 0; }
  bool IsSpecial(int32_t id) const { return (Flags(id) & kSpecial) != 0; }
  bool StartsWithSpaceMark(int32_t id) const { return (Flags(id) & kSpaceMark) != 0; }

  /// Empty for invalid ids.
  std::string_view Bytes(int32_t id) const {
    if (!IsValid(id)) return {};
    return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }

 private:
  static constexpr uint8_t kPresent = 1;
  static constexpr uint8_t kSpecial = 2;
  static constexpr uint8_t kSpaceMark = 4;

  uint8_t Flags(int32_t id) const { return id >= 0 && id < size() ? flags_[id] : 0; }

  std::string bytes_;              // all tokens' bytes, in id order
  std::vector<uint32_t> offsets_;  // [size + 1] into bytes_
  std::vector<uint8_t> flags_;     // [size]
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_TOKEN_TABLE_H_
