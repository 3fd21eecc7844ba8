// Split patterns of tokenizer.json are written for Oniguruma (Ruby syntax, Unicode); we match
// with PCRE2. The two agree on nearly all that tokenizers use and differ silently on the rest,
// so a pattern is translated token by token and whatever is not known to mean the same in both
// is refused.
//
// Thread safety: pure function.
#ifndef PARALLAX_ENGINE_TOKENIZER_REGEX_DIALECT_H_
#define PARALLAX_ENGINE_TOKENIZER_REGEX_DIALECT_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace parallax {

/// `pattern` in PCRE2's syntax, for UTF | UCP | MULTILINE.
/// UNIMPLEMENTED naming the construct and its byte offset: not translated. Among these are \w,
/// \b, nested classes, [[:posix:]], back-references and inline flags other than (?i:...).
absl::StatusOr<std::string> TranslateOniguruma(std::string_view pattern);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_REGEX_DIALECT_H_
