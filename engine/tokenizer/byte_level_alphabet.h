// The byte-level alphabet of GPT-2: every byte has a printable character that stands for it in
// vocabulary files, e.g. "Ġ" (U+0120) for the space.
//
// Printable Latin-1 bytes (21..7E, A1..AC, AE..FF) stand for themselves; the 68 others are
// U+0100 and up, in order.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_TOKENIZER_BYTE_LEVEL_ALPHABET_H_
#define PARALLAX_ENGINE_TOKENIZER_BYTE_LEVEL_ALPHABET_H_

#include <optional>
#include <string>
#include <string_view>

namespace parallax {

/// The bytes that `token` spells in the alphabet; nothing if one of its characters is not in
/// it. REQUIRES: valid UTF-8.
std::optional<std::string> BytesOfByteLevelToken(std::string_view token);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_BYTE_LEVEL_ALPHABET_H_
