// Unicode normalisation form C (Unicode Standard Annex #15) in time linear in the text but for
// the sorting of its runs of combining marks: a prompt made of nothing else is no attack.
//
// Thread safety: pure function.
#ifndef PARALLAX_ENGINE_TOKENIZER_UNICODE_NFC_H_
#define PARALLAX_ENGINE_TOKENIZER_UNICODE_NFC_H_

#include <string>
#include <string_view>

namespace parallax {

/// True if `text` is NFC by its bytes alone: all its characters are below U+0300.
bool IsTriviallyNfc(std::string_view text);

/// The NFC of `text`. REQUIRES: valid UTF-8.
std::string ToNfc(std::string_view text);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_UNICODE_NFC_H_
