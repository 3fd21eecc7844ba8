#include "engine/kv_cache/block_table.h"

#include "engine/kv_cache/invariant.h"

namespace parallax {

void BlockTable::Append(int32_t page) {
  if (page == kNoPage) {
    CheckInvariant(first_live_ == size(), "only leading table entries have no page");
    ++first_live_;
  }
  pages_.push_back(page);
}

int32_t BlockTable::Replace(int32_t index, int32_t page) {
  CheckInvariant(index >= first_live_ && index < size(), "only a live table entry is replaced");
  const int32_t old = pages_[index];
  pages_[index] = page;
  return old;
}

int32_t BlockTable::DropFirst(int32_t end) {
  CheckInvariant(end <= size(), "table entries are dropped only where there are some");
  if (first_live_ >= end) {
    return kNoPage;
  }
  const int32_t page = pages_[first_live_];
  pages_[first_live_++] = kNoPage;
  return page;
}

int32_t BlockTable::PopBack() {
  CheckInvariant(!pages_.empty(), "an empty table has no last entry");
  const int32_t page = pages_.back();
  pages_.pop_back();
  first_live_ = first_live_ < size() ? first_live_ : size();
  return page;
}

void BlockTable::CopyFrom(const BlockTable& other) {
  pages_.assign(other.pages_.begin(), other.pages_.end());
  first_live_ = other.first_live_;
}

}  // namespace parallax
