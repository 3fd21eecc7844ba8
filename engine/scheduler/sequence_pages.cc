#include "engine/scheduler/sequence_pages.h"

#include <algorithm>

#include "engine/kv_cache/invariant.h"

namespace parallax {

SequencePages::SequencePages(int32_t num_pages, int32_t sliding_window, bool enable_prefix_cache,
                             PrefixCacheObserver* observer)
    : sliding_window_(sliding_window),
      enable_prefix_cache_(enable_prefix_cache),
      allocator_(num_pages),
      cache_(&allocator_, observer),
      copy_holds_(static_cast<size_t>(num_pages)) {
  matched_.reserve(static_cast<size_t>(num_pages));
  taken_.reserve(static_cast<size_t>(num_pages));
}

int32_t SequencePages::EntriesBehindWindow(int32_t position) const {
  const int32_t first_visible = position - sliding_window_ + 1;
  return sliding_window_ > 0 && first_visible > 0 ? first_visible / kPageTokens : 0;
}

SequencePages::PrefixHit SequencePages::Match(const Sequence& sequence, int32_t max_pages) {
  PrefixHit hit;
  hit.last = PrefixCache::Root(sequence.group->prefix_root);
  if (!enable_prefix_cache_ || max_pages == 0) {
    return hit;
  }
  const std::span<const int32_t> tokens = sequence.known_tokens();
  const int32_t limit = std::min<int64_t>(tokens.size(), int64_t{max_pages} * kPageTokens);
  cache_.Match(sequence.group->prefix_root, tokens.first(limit), &matched_);
  if (matched_.empty()) {
    return hit;
  }
  hit.last = cache_.LinkOf(matched_.back());
  hit.first_position = std::min(static_cast<int32_t>(matched_.size()) * kPageTokens,
                                static_cast<int32_t>(tokens.size()) - 1);
  const int32_t behind = EntriesBehindWindow(hit.first_position);
  std::fill_n(matched_.begin(), behind, kNoPage);
  hit.pages = matched_;
  hit.unreferenced = static_cast<int32_t>(std::ranges::count_if(
      hit.pages.subspan(behind), [&](int32_t page) { return allocator_.references(page) == 0; }));
  return hit;
}

void SequencePages::Begin(const PrefixHit& hit, Sequence* sequence) {
  for (const int32_t page : hit.pages) {
    sequence->block_table.Append(page);
    if (page != kNoPage) {
      allocator_.AddReference(page);
    }
  }
  sequence->num_scheduled = sequence->num_computed = hit.first_position;
  sequence->pages_published = static_cast<int32_t>(hit.pages.size());
  sequence->prefix = hit.last;
  sequence->publishes = enable_prefix_cache_;
}

void SequencePages::Share(const Sequence& from, Sequence* to) {
  to->block_table.CopyFrom(from.block_table);
  for (const int32_t page : to->block_table.live_pages()) {
    allocator_.AddReference(page);
  }
  to->num_scheduled = from.num_scheduled;
  to->num_computed = from.num_computed;
  to->prefill_end = from.prefill_end;
  to->pages_published = from.pages_published;
  to->prefix = from.prefix;
  to->publishes = from.publishes;
}

void SequencePages::Extend(int32_t end, Sequence* sequence, std::vector<PageCopy>* copies) {
  BlockTable& table = sequence->block_table;
  const int32_t first = sequence->num_scheduled / kPageTokens;
  if (first < table.size() && !Writable(table.page(first))) {
    CopyForWriting(first, sequence, copies);
  }
  const int32_t missing = PagesForTokens(end) - table.size();
  if (missing <= 0) {
    return;
  }
  taken_.clear();
  CheckInvariant(allocator_.Allocate(missing, &taken_), "pages were secured before the write");
  for (const int32_t page : taken_) {
    table.Append(page);
  }
}

void SequencePages::CopyForWriting(int32_t index, Sequence* sequence,
                                   std::vector<PageCopy>* copies) {
  taken_.clear();
  CheckInvariant(allocator_.Allocate(1, &taken_), "a page was secured before the copy");
  const int32_t source = sequence->block_table.Replace(index, taken_.front());
  ++copy_holds_[source];  // the table's reference becomes the step's
  ++owed_;
  copies->push_back({.src = source, .dst = taken_.front()});
}

void SequencePages::ReleaseCopySources(std::span<const PageCopy> copies) {
  for (const PageCopy& copy : copies) {
    --copy_holds_[copy.src];
    --owed_;
    allocator_.Release(copy.src);
  }
}

void SequencePages::Publish(int32_t pages, Sequence* sequence) {
  const std::span<const int32_t> tokens = sequence->tokens;
  for (; sequence->publishes && sequence->pages_published < pages; ++sequence->pages_published) {
    const int32_t index = sequence->pages_published;
    sequence->publishes = cache_.Publish(sequence->group->prefix_root,
                                         tokens.subspan(int64_t{index} * kPageTokens, kPageTokens),
                                         sequence->block_table.page(index), &sequence->prefix);
  }
}

void SequencePages::ReleaseBehindWindow(int32_t end, Sequence* sequence) {
  const int32_t behind = std::min(EntriesBehindWindow(end), sequence->block_table.size());
  for (int32_t page; (page = sequence->block_table.DropFirst(behind)) != kNoPage;) {
    allocator_.Release(page);
  }
}

void SequencePages::Release(Sequence* sequence) {
  while (sequence->block_table.size() > 0) {
    const int32_t page = sequence->block_table.PopBack();
    if (page != kNoPage) {
      allocator_.Release(page);
    }
  }
  owed_ -= sequence->pages_owed;
  sequence->pages_owed = 0;
  sequence->num_scheduled = sequence->num_computed = sequence->prefill_end = 0;
}

void SequencePages::Owe(Sequence* sequence) {
  sequence->pages_owed = static_cast<int32_t>(
      std::ranges::count_if(sequence->block_table.live_pages(),
                            [&](int32_t page) { return allocator_.references(page) == 1; }));
  owed_ += sequence->pages_owed;
}

void SequencePages::Unpublish(Sequence* sequence) {
  sequence->publishes = false;
  for (const int32_t page : sequence->block_table.live_pages()) {
    cache_.Remove(page);
  }
}

}  // namespace parallax
