#include "engine/kv_cache/block_allocator.h"

#include "engine/kv_cache/invariant.h"

namespace parallax {

BlockAllocator::BlockAllocator(int32_t num_pages)
    : pages_(static_cast<size_t>(num_pages)), links_(static_cast<size_t>(num_pages) + 2) {
  links_[free_list()] = {free_list(), free_list()};
  links_[lru_list()] = {lru_list(), lru_list()};
  for (int32_t page = num_pages - 1; page >= 0; --page) {
    PushFree(page);  // low numbers are used first: easier to read in a debugger
  }
}

bool BlockAllocator::Allocate(int32_t count, std::vector<int32_t>* pages) {
  if (count > num_available()) {
    return false;
  }
  for (int32_t i = 0; i < count; ++i) {
    pages->push_back(TakeAvailable());
  }
  return true;
}

void BlockAllocator::AddReference(int32_t page) {
  Page& state = pages_[page];
  if (state.references == 0) {
    CheckInvariant(state.cached, "a free page is referenced only through Allocate");
    Unlink(page);
    --num_cached_;
  }
  ++state.references;
}

void BlockAllocator::Release(int32_t page) {
  Page& state = pages_[page];
  CheckInvariant(state.references > 0, "a page is released at most once per reference");
  if (--state.references > 0) {
    return;
  }
  if (state.cached) {
    LinkBefore(lru_list(), page);
    ++num_cached_;
  } else {
    PushFree(page);
  }
}

void BlockAllocator::MarkCached(int32_t page) {
  CheckInvariant(pages_[page].references > 0, "only a used page is marked cached");
  pages_[page].cached = true;
}

void BlockAllocator::UnmarkCached(int32_t page) {
  Page& state = pages_[page];
  if (!state.cached) {
    return;
  }
  state.cached = false;
  if (state.references == 0) {
    Unlink(page);
    --num_cached_;
    PushFree(page);
  }
}

int32_t BlockAllocator::EvictAll() {
  int32_t evicted = 0;
  for (; num_cached_ > 0; ++evicted) {
    PushFree(EvictOldest());
  }
  return evicted;
}

int32_t BlockAllocator::TakeAvailable() {
  int32_t page;
  if (num_free_ > 0) {
    page = links_[free_list()].next;
    Unlink(page);
    --num_free_;
  } else {
    page = EvictOldest();
  }
  pages_[page].references = 1;
  return page;
}

int32_t BlockAllocator::EvictOldest() {
  const int32_t page = links_[lru_list()].next;
  if (listener_ != nullptr) {
    listener_->OnEvict(page);
  }
  Unlink(page);
  --num_cached_;
  pages_[page].cached = false;
  return page;
}

void BlockAllocator::Unlink(int32_t page) {
  const Link link = links_[page];
  links_[link.previous].next = link.next;
  links_[link.next].previous = link.previous;
}

void BlockAllocator::LinkBefore(int32_t position, int32_t page) {
  const int32_t previous = links_[position].previous;
  links_[page] = {previous, position};
  links_[previous].next = page;
  links_[position].previous = page;
}

void BlockAllocator::PushFree(int32_t page) {
  LinkBefore(links_[free_list()].next, page);
  ++num_free_;
}

// The length of a list whose pages must be unreferenced and `cached`; -1 if one is not.
int32_t BlockAllocator::CountList(int32_t list, bool cached) const {
  int32_t count = 0;
  for (int32_t page = links_[list].next; page != list; page = links_[page].next) {
    if (pages_[page].references != 0 || pages_[page].cached != cached || count > num_pages()) {
      return -1;
    }
    ++count;
  }
  return count;
}

std::string BlockAllocator::CheckInvariants() const {
  int32_t used = 0;
  for (const Page& page : pages_) {
    if (page.references < 0) {
      return "a page has fewer than no references";
    }
    used += page.references > 0 ? 1 : 0;
  }
  if (CountList(free_list(), false) != num_free_) {
    return "free list and its count disagree";
  }
  if (CountList(lru_list(), true) != num_cached_) {
    return "list of cached pages and its count disagree";
  }
  if (used + num_free_ + num_cached_ != num_pages()) {
    return "used + free + cached pages != all pages";
  }
  return "";
}

}  // namespace parallax
