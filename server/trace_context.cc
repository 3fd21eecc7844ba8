#include "server/trace_context.h"

#include <algorithm>
#include <cstddef>

namespace parallax::server {
namespace {

constexpr size_t kVersion00Bytes = 55;
constexpr size_t kMaxBytes = 256;  // of a later version's: what a log line may carry

bool IsHex(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

bool IsPrintable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

bool IsTraceparent(std::string_view value) {
  if (value.size() < kVersion00Bytes || value.size() > kMaxBytes) return false;
  if (value[2] != '-' || value[35] != '-' || value[52] != '-') return false;
  const std::string_view version = value.substr(0, 2);
  if (!IsHex(version) || version == "ff") return false;
  if (value.size() > kVersion00Bytes) {
    if (version == "00" || value[kVersion00Bytes] != '-' || !IsPrintable(value)) return false;
  }
  return IsId(value.substr(3, 32)) && IsId(value.substr(36, 16)) && IsHex(value.substr(53, 2));
}

}  // namespace parallax::server
