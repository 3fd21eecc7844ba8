// BlockAllocator: the pages of the KV pool and who holds them.
//
// A page is in one of three places: used (references > 0), cached (no reference, but its
// content can be found again) or free. Allocate takes free pages first and then reclaims
// cached ones, least recently released first. All operations are O(1) a page; the lists are
// intrusive, so nothing is allocated after construction.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_KV_CACHE_BLOCK_ALLOCATOR_H_
#define PARALLAX_ENGINE_KV_CACHE_BLOCK_ALLOCATOR_H_

#include <cstdint>
#include <string>
#include <vector>

namespace parallax {

class BlockAllocator {
 public:
  /// Hears of each cached page just before it is given to someone else.
  class EvictionListener {
   public:
    virtual ~EvictionListener() = default;
    virtual void OnEvict(int32_t page) = 0;
  };

  /// Pages are numbered from 0. REQUIRES: num_pages >= 0.
  explicit BlockAllocator(int32_t num_pages);
  BlockAllocator(const BlockAllocator&) = delete;
  BlockAllocator& operator=(const BlockAllocator&) = delete;

  void set_eviction_listener(EvictionListener* listener) { listener_ = listener; }

  /// Appends `count` pages with one reference each to `pages`; or changes nothing and
  /// returns false if fewer are available.
  bool Allocate(int32_t count, std::vector<int32_t>* pages);

  /// One more reference. REQUIRES: the page is used or cached.
  void AddReference(int32_t page);
  /// One less. The last one leaves the page cached if it is marked so, else free.
  void Release(int32_t page);

  /// Content that can be found again: the page outlives its references. REQUIRES: used.
  void MarkCached(int32_t page);
  /// No longer; an unreferenced page becomes free.
  void UnmarkCached(int32_t page);
  /// Evicts every unreferenced cached page; returns how many.
  int32_t EvictAll();

  int32_t references(int32_t page) const { return pages_[page].references; }
  bool marked_cached(int32_t page) const { return pages_[page].cached; }

  int32_t num_pages() const { return static_cast<int32_t>(pages_.size()); }
  int32_t num_free() const { return num_free_; }
  int32_t num_cached() const { return num_cached_; }  // unreferenced
  int32_t num_available() const { return num_free_ + num_cached_; }
  int32_t num_used() const { return num_pages() - num_available(); }

  /// Empty, or the first invariant that does not hold. For tests; costs O(pages).
  std::string CheckInvariants() const;

 private:
  struct Page {
    int32_t references = 0;
    bool cached = false;
  };
  struct Link {
    int32_t previous;
    int32_t next;
  };

  int32_t free_list() const { return num_pages(); }  // the lists' sentinels in links_
  int32_t lru_list() const { return num_pages() + 1; }
  void Unlink(int32_t page);
  void LinkBefore(int32_t position, int32_t page);
  void PushFree(int32_t page);
  int32_t TakeAvailable();
  int32_t EvictOldest();
  int32_t CountList(int32_t list, bool cached) const;

  std::vector<Page> pages_;
  std::vector<Link> links_;
  int32_t num_free_ = 0;
  int32_t num_cached_ = 0;
  EvictionListener* listener_ = nullptr;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_KV_CACHE_BLOCK_ALLOCATOR_H_
