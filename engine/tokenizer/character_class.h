// The character properties that added tokens and split patterns are defined by.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_TOKENIZER_CHARACTER_CLASS_H_
#define PARALLAX_ENGINE_TOKENIZER_CHARACTER_CLASS_H_

#include <string_view>

namespace parallax {

/// Unicode White_Space.
bool IsWhiteSpace(char32_t code_point);

/// Part of a word by Unicode TS #18 (\w): alphabetic, mark, decimal digit, connector
/// punctuation, join control.
bool IsWordCharacter(char32_t code_point);

/// White_Space as the inside of a PCRE2 character class. PCRE2's own \s also has U+180E.
inline constexpr std::string_view kWhiteSpaceClass =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_CHARACTER_CLASS_H_
