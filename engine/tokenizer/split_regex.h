// SplitRegex: a compiled split pattern, matched by PCRE2 (JIT where the machine allows it).
//
// Thread safety: SplitRegex is immutable and shared; each thread uses a Matcher of its own.
// Limits: a match may take a number of steps in proportion to the text, so that a pattern that
// backtracks without end is an error, not a hang.
#ifndef PARALLAX_ENGINE_TOKENIZER_SPLIT_REGEX_H_
#define PARALLAX_ENGINE_TOKENIZER_SPLIT_REGEX_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace parallax {

/// Bytes [begin, end) of a text.
struct TextSpan {
  size_t begin;
  size_t end;
};

class SplitRegex {
 public:
  class Matcher;

  /// `pattern` in Oniguruma's syntax, see regex_dialect.h.
  /// UNIMPLEMENTED: a construct we do not translate. INVALID_ARGUMENT: not a pattern.
  static absl::StatusOr<SplitRegex> Compile(std::string_view pattern);

  /// Matches exactly `text`.
  static absl::StatusOr<SplitRegex> CompileLiteral(std::string_view text);

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };

  static absl::StatusOr<SplitRegex> CompilePcre2(std::string_view pattern);

  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
  bool jit_ = false;
};

/// The working memory of one thread for one regex, which must outlive it.
class SplitRegex::Matcher {
 public:
  explicit Matcher(const SplitRegex& regex);

  /// The first match in `text` at or after byte `from`; it may be empty.
  /// REQUIRES: `text` is valid UTF-8 and `from` the start of a character, or its end.
  /// INVALID_ARGUMENT: the match limit was reached.
  absl::StatusOr<std::optional<TextSpan>> Find(std::string_view text, size_t from);

 private:
  struct MatchDataDeleter {
    void operator()(pcre2_real_match_data_8* data) const;
  };
  struct ContextDeleter {
    void operator()(pcre2_real_match_context_8* context) const;
  };

  int Match(std::string_view text, size_t from);

  const SplitRegex* regex_;
  std::unique_ptr<pcre2_real_match_data_8, MatchDataDeleter> data_;
  std::unique_ptr<pcre2_real_match_context_8, ContextDeleter> context_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_SPLIT_REGEX_H_
