// BlockTable: which page holds which 64 tokens of one sequence.
//
// Entry i covers positions [64 i, 64 i + 64). Leading entries are kNoPage once they are
// behind the sliding window for good. The table only names pages; references are counted
// by BlockAllocator and moved by the owner of the table.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_KV_CACHE_BLOCK_TABLE_H_
#define PARALLAX_ENGINE_KV_CACHE_BLOCK_TABLE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache/page.h"

namespace parallax {

class BlockTable {
 public:
  /// Room for `pages` entries, so that appending later allocates nothing.
  void Reserve(int32_t pages) { pages_.reserve(pages); }

  /// Adds a page at the end; kNoPage only where every entry before it is kNoPage too.
  void Append(int32_t page);
  /// Replaces a live entry; returns the page it held.
  int32_t Replace(int32_t index, int32_t page);
  /// Gives up the first live entry, which must be before `end`; returns its page, or
  /// kNoPage if no live entry is left before `end`.
  int32_t DropFirst(int32_t end);
  /// Drops the last entry; returns its page (kNoPage if it was behind the window).
  int32_t PopBack();
  void CopyFrom(const BlockTable& other);

  int32_t size() const { return static_cast<int32_t>(pages_.size()); }
  /// Entries before this one are kNoPage.
  int32_t first_live() const { return first_live_; }
  int32_t page(int32_t index) const { return pages_[index]; }
  std::span<const int32_t> pages() const { return pages_; }
  std::span<const int32_t> live_pages() const { return pages().subspan(first_live_); }

 private:
  std::vector<int32_t> pages_;
  int32_t first_live_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_KV_CACHE_BLOCK_TABLE_H_
