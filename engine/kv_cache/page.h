// KV pages by number: their size, and what one does with a whole page.
//
// Thread safety: plain data.
#ifndef PARALLAX_ENGINE_KV_CACHE_PAGE_H_
#define PARALLAX_ENGINE_KV_CACHE_PAGE_H_

#include <cstdint>

namespace parallax {

/// Tokens per KV page.
inline constexpr int kPageTokens = 64;
/// A block-table entry without a page (behind a sliding window): never read.
inline constexpr int32_t kNoPage = -1;

/// Pages that `tokens` tokens from position 0 take.
constexpr int32_t PagesForTokens(int64_t tokens) {
  return static_cast<int32_t>((tokens + kPageTokens - 1) / kPageTokens);
}

/// Copy-on-write: copy a whole page in every layer, before the step's KV writes.
struct PageCopy {
  int32_t src;
  int32_t dst;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_KV_CACHE_PAGE_H_
