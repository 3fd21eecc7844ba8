// UTF-8 decoding by the rules of the Unicode Standard, section 3.9 (tables 3-7 and "U+FFFD
// substitution of maximal subparts"), which are also WHATWG's.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_TOKENIZER_UTF8_H_
#define PARALLAX_ENGINE_TOKENIZER_UTF8_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace parallax {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Status {
  kValid,       // one whole character
  kInvalid,     // a maximal ill-formed subpart: one U+FFFD stands for all of it
  kIncomplete,  // the text ends inside a character that more bytes may complete
};

struct Utf8Char {
  Utf8Status status;
  int length;           // bytes used: 1..4 if valid, 1..3 otherwise
  char32_t code_point;  // meaningful if valid
};

/// Reads the character at the start of `text`. REQUIRES: `text` is not empty.
Utf8Char DecodeUtf8(std::string_view text);

/// Byte offset of the first ill-formed or incomplete sequence, if there is one.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

/// The incomplete character at the end of `text` (0 to 3 bytes); what stands before it may be
/// anything.
std::string_view IncompleteUtf8Suffix(std::string_view text);

/// Appends a Unicode scalar value. REQUIRES: not a surrogate, at most U+10FFFF.
void AppendUtf8(char32_t code_point, std::string* text);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_UTF8_H_
