#include "engine/tokenizer/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/regex_dialect.h"

namespace parallax {
namespace {

// Real patterns take a few steps a byte, and give back at most the run they just took.
constexpr uint64_t kBaseMatchSteps = 1'000'000;
constexpr uint64_t kMatchStepsPerByte = 32;
constexpr uint32_t kHeapLimitKibibytes = 64 * 1024;
constexpr size_t kMaxPatternBytes = 64 * 1024;

std::string Pcre2Message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

PCRE2_SPTR AsSubject(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

void SplitRegex::CodeDeleter::operator()(pcre2_code* code) const { pcre2_code_free(code); }

absl::StatusOr<SplitRegex> SplitRegex::Compile(std::string_view pattern) {
  absl::StatusOr<std::string> translated = TranslateOniguruma(pattern);
  if (!translated.ok()) return translated.status();
  return CompilePcre2(*translated);
}

absl::StatusOr<SplitRegex> SplitRegex::CompileLiteral(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    const bool special = std::string_view("\\^$.[]|()?*+{}").find(c) != std::string_view::npos;
    if (special) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return CompilePcre2(pattern);
}

absl::StatusOr<SplitRegex> SplitRegex::CompilePcre2(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression of ", pattern.size(), " bytes is too long"));
  }
  // Oniguruma's ^ and $ are those of lines; PCRE2's default newline is a choice of its build.
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  SplitRegex regex;
  regex.code_.reset(pcre2_compile(AsSubject(pattern), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                  &error, &offset, context.get()));
  if (regex.code_ == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression: ", Pcre2Message(error), " (offset ", offset, ")"));
  }
  regex.jit_ = pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE) == 0;
  return regex;
}

void SplitRegex::Matcher::MatchDataDeleter::operator()(pcre2_match_data* data) const {
  pcre2_match_data_free(data);
}

void SplitRegex::Matcher::ContextDeleter::operator()(pcre2_match_context* context) const {
  pcre2_match_context_free(context);
}

SplitRegex::Matcher::Matcher(const SplitRegex& regex)
    : regex_(&regex),
      data_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  pcre2_set_heap_limit(context_.get(), kHeapLimitKibibytes);
}

int SplitRegex::Matcher::Match(std::string_view text, size_t from) {
  const uint64_t steps = kBaseMatchSteps + kMatchStepsPerByte * (text.size() - from);
  pcre2_set_match_limit(context_.get(),
                        static_cast<uint32_t>(std::min<uint64_t>(steps, UINT32_MAX)));
  const pcre2_code* code = regex_->code_.get();
  if (regex_->jit_) {
    const int rc =
        pcre2_jit_match(code, AsSubject(text), text.size(), from, 0, data_.get(), context_.get());
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
  }
  // The interpreter keeps its stack on the heap, within the limit above.
  return pcre2_match(code, AsSubject(text), text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                     data_.get(), context_.get());
}

absl::StatusOr<std::optional<TextSpan>> SplitRegex::Matcher::Find(std::string_view text,
                                                                  size_t from) {
  if (text.data() == nullptr) text = "";
  const int rc = Match(text, from);
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) {
    return absl::InvalidArgumentError(absl::StrCat("splitting the text into words failed at byte ",
                                                   from, ": ", Pcre2Message(rc)));
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
  return TextSpan{bounds[0], bounds[1]};
}

}  // namespace parallax
