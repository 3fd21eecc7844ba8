// SequencePages: moves pages between the pool, the prefix cache and block tables.
//
// The rule it keeps: a page is written by one sequence only. A sequence whose next position
// is in a page that others reference (a shared prompt's last page) or that is published (a
// prompt cached as a whole) gets a copy first (copy-on-write); the last holder of an
// unpublished page writes in place.
//
// A copy reads its source at the start of its step, so the step holds a reference to it
// until it is completed: the source cannot be given away while it is being read.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_SCHEDULER_SEQUENCE_PAGES_H_
#define PARALLAX_ENGINE_SCHEDULER_SEQUENCE_PAGES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache/block_allocator.h"
#include "engine/kv_cache/prefix_cache.h"
#include "engine/scheduler/sequence.h"

namespace parallax {

class SequencePages {
 public:
  /// `sliding_window` 0: none.
  SequencePages(int32_t num_pages, int32_t sliding_window, bool enable_prefix_cache,
                PrefixCacheObserver* observer);

  // Beginning.

  /// Pages that `sequence`, which has none, can begin with. Valid until pages next move.
  struct PrefixHit {
    std::span<const int32_t> pages;  // from position 0; those behind the window kNoPage
    int32_t first_position = 0;      // the first one that must be computed
    int32_t unreferenced = 0;        // hits that count as available until they are taken
    PrefixLink last;                 // of the last hit, or the root
  };
  /// `max_pages` bounds the hit.
  PrefixHit Match(const Sequence& sequence, int32_t max_pages);
  void Begin(const PrefixHit& hit, Sequence* sequence);
  /// `to` begins with the pages of `from`, which both will write to only in copies.
  void Share(const Sequence& from, Sequence* to);

  // Growing.

  /// Pages that must be available before positions num_scheduled..end-1 are written.
  int32_t PagesNeeded(const Sequence& sequence, int32_t end) const {
    const BlockTable& table = sequence.block_table;
    const int32_t first = sequence.num_scheduled / kPageTokens;
    const int32_t missing = PagesForTokens(end) - table.size();
    const bool copies = first < table.size() && !Writable(table.page(first));
    return (missing > 0 ? missing : 0) + (copies ? 1 : 0);
  }
  /// Takes them. REQUIRES: PagesNeeded are available.
  void Extend(int32_t end, Sequence* sequence, std::vector<PageCopy>* copies);

  // A step was completed.

  /// K/V up to `end` are written: publishes the full pages and frees those that no position
  /// from `end` on can see.
  void Advance(int32_t end, Sequence* sequence) {
    if (sequence->publishes && end / kPageTokens > sequence->pages_published) {
      Publish(end / kPageTokens, sequence);
    }
    if (sliding_window_ > 0) {
      ReleaseBehindWindow(end, sequence);
    }
  }
  void ReleaseCopySources(std::span<const PageCopy> copies);

  // Ending.

  /// Gives back all pages. Children first, so that a chain is reclaimed from its end.
  void Release(Sequence* sequence);
  /// The same, delayed by a step in flight: only counts what Release will free.
  void Owe(Sequence* sequence);
  /// Takes the sequence's pages out of the prefix cache and keeps later ones out.
  void Unpublish(Sequence* sequence);

  int32_t Flush() { return cache_.Flush(); }

  /// Pages that the completion of steps in flight will free.
  int32_t owed() const { return owed_; }
  int32_t copy_holds(int32_t page) const { return copy_holds_[page]; }
  const BlockAllocator& allocator() const { return allocator_; }
  const PrefixCache& cache() const { return cache_; }

 private:
  // Entries of a table that no position from `position` on can see.
  int32_t EntriesBehindWindow(int32_t position) const;
  bool Exclusive(int32_t page) const {
    return allocator_.references(page) - copy_holds_[page] == 1;
  }
  bool Writable(int32_t page) const { return Exclusive(page) && !allocator_.marked_cached(page); }
  void CopyForWriting(int32_t index, Sequence* sequence, std::vector<PageCopy>* copies);
  void Publish(int32_t pages, Sequence* sequence);
  void ReleaseBehindWindow(int32_t end, Sequence* sequence);

  const int32_t sliding_window_;
  const bool enable_prefix_cache_;
  BlockAllocator allocator_;
  PrefixCache cache_;
  std::vector<int32_t> copy_holds_;  // [page] references that are a step's, not a table's
  int32_t owed_ = 0;
  std::vector<int32_t> matched_;  // scratch
  std::vector<int32_t> taken_;    // scratch
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SCHEDULER_SEQUENCE_PAGES_H_
