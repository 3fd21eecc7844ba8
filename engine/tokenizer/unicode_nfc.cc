#include "engine/tokenizer/unicode_nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

using CodePoints = std::vector<utf8proc_int32_t>;

// The longest canonical decomposition has 4 characters; more room costs nothing.
constexpr int kMaxDecomposition = 16;

CodePoints Decompose(std::string_view text) {
  CodePoints out;
  out.reserve(text.size());
  utf8proc_int32_t buffer[kMaxDecomposition];
  int last_boundclass = UTF8PROC_BOUNDCLASS_START;
  while (!text.empty()) {
    const Utf8Char next = DecodeUtf8(text);
    text.remove_prefix(next.length);
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(next.code_point), buffer, kMaxDecomposition,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &last_boundclass);
    out.insert(out.end(), buffer, buffer + count);
  }
  return out;
}

// utf8proc_decompose sorts marks by swapping neighbours, quadratic in the length of a run.
void SortMarks(CodePoints* code_points) {
  const auto combining_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  const auto is_mark = [&](utf8proc_int32_t c) { return combining_class(c) != 0; };
  const auto is_starter = [&](utf8proc_int32_t c) { return combining_class(c) == 0; };
  auto begin = code_points->begin();
  while (true) {
    begin = std::find_if(begin, code_points->end(), is_mark);
    if (begin == code_points->end()) return;
    const auto end = std::find_if(begin, code_points->end(), is_starter);
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = end;
  }
}

void Compose(CodePoints* code_points) {
  const utf8proc_ssize_t length = utf8proc_normalize_utf32(
      code_points->data(), static_cast<utf8proc_ssize_t>(code_points->size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  code_points->resize(length);
}

}  // namespace

bool IsTriviallyNfc(std::string_view text) {
  // U+0300 is CC 80; continuation bytes are below C0.
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<uint8_t>(c) >= 0xCC; });
}

std::string ToNfc(std::string_view text) {
  if (IsTriviallyNfc(text)) return std::string(text);
  CodePoints code_points = Decompose(text);
  SortMarks(&code_points);
  Compose(&code_points);
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t c : code_points) AppendUtf8(static_cast<char32_t>(c), &out);
  return out;
}

}  // namespace parallax
