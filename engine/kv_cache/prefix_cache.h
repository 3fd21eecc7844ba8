// PrefixCache: finds pages that already hold the K/V of a prefix.
//
// A full page is known by what it was computed from: the page before it, its own 64 token
// ids, and, for a first page, a root key (tenant salt, adapter, weights version). The three
// are chained into a 128-bit hash (XXH3-128), by which pages are found; ids, root key and
// parent are then compared, so that a collision costs a miss and never a wrong page. The
// parent is compared by its publication number, which no other page ever had: a chain is
// thus equal by induction, not by its hash alone.
//
// A page is published once its K/V are written. Of two pages with the same content the
// first stays. Pages that lose their last reference stay cached, least recently used first
// to be reclaimed (BlockAllocator). If a parent goes before its children they become
// unreachable and age out, or are displaced when their content is published again.
//
// All memory is allocated by the constructor (but for root keys longer than a std::string
// holds inside). Match costs a hash and a comparison per page, Publish a hash.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_KV_CACHE_PREFIX_CACHE_H_
#define PARALLAX_ENGINE_KV_CACHE_PREFIX_CACHE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/kv_cache/block_allocator.h"
#include "engine/kv_cache/page.h"

namespace parallax {

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

/// XXH3-128 of the parent's hash and the page's ids.
Hash128 HashPage(const Hash128& parent, std::span<const int32_t> tokens);

/// One published page, as the parent of the next. Default-constructed: the root.
struct PrefixLink {
  int32_t page = kNoPage;
  uint64_t publication = 0;  // 0 only for the root
  Hash128 hash;              // of the root key, for the root
};

/// Told what the cache holds. Called on the engine thread, inside Publish and wherever pages
/// are reclaimed; must not call back.
class PrefixCacheObserver {
 public:
  virtual ~PrefixCacheObserver() = default;
  /// `parent` is the root (publication 0) for the first page of a prompt.
  virtual void OnStored(const PrefixLink& parent, const Hash128& hash,
                        std::span<const int32_t> tokens) = 0;
  virtual void OnRemoved(const Hash128& hash) = 0;
  /// Instead of OnRemoved for each, when a flush left no page in the cache.
  virtual void OnCleared() = 0;
};

class PrefixCache : private BlockAllocator::EvictionListener {
 public:
  using HashFunction = Hash128 (*)(const Hash128& parent, std::span<const int32_t> tokens);

  /// `allocator` outlives the cache. `observer` may be null. `hash` is a seam for tests of
  /// collisions.
  PrefixCache(BlockAllocator* allocator, PrefixCacheObserver* observer,
              HashFunction hash = &HashPage);
  ~PrefixCache() override;
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  static PrefixLink Root(std::string_view root_key);

  /// Replaces `pages` by the longest run of cached pages that `tokens` begins with. Takes
  /// no references: do so before anything is allocated.
  void Match(std::string_view root_key, std::span<const int32_t> tokens,
             std::vector<int32_t>* pages) const;

  /// The link of a cached page.
  PrefixLink LinkOf(int32_t page) const;

  /// Offers a referenced, fully written page that holds `tokens` (64) after `link`. Moves
  /// `link` on to the page that now stands for this content, this one or an earlier one.
  /// False if the page of `link` is no longer cached: the chain ends there.
  bool Publish(std::string_view root_key, std::span<const int32_t> tokens, int32_t page,
               PrefixLink* link);

  /// Takes a page out of the cache, if it is in; its references stand.
  void Remove(int32_t page);

  /// Takes every unreferenced page out of the cache and frees it; returns how many.
  int32_t Flush();

  int32_t size() const { return size_; }

  /// Empty, or the first invariant that does not hold. For tests; costs O(pages).
  std::string CheckInvariants() const;

 private:
  struct Entry {
    Hash128 hash;
    uint64_t publication = 0;  // 0: not in the cache
    uint64_t parent = 0;       // publication of the parent
  };

  void OnEvict(int32_t page) override;

  bool Holds(int32_t page, const PrefixLink& parent, std::string_view root_key,
             std::span<const int32_t> tokens) const;
  bool Alive(const PrefixLink& link) const;
  int32_t Find(const Hash128& hash) const;
  void Insert(int32_t page);
  void Erase(int32_t page);
  size_t Home(const Hash128& hash) const { return hash.low & mask_; }
  std::span<const int32_t> TokensOf(int32_t page) const;

  BlockAllocator* const allocator_;
  PrefixCacheObserver* const observer_;
  const HashFunction hash_;

  // Per page.
  std::vector<Entry> entries_;
  std::vector<int32_t> tokens_;         // [pages, 64]
  std::vector<std::string> root_keys_;  // of first pages

  // Open addressing with linear probing, at most half full: page by hash. One page a hash.
  std::vector<int32_t> table_;
  size_t mask_ = 0;

  int32_t size_ = 0;
  uint64_t last_publication_ = 0;
  bool clearing_ = false;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_KV_CACHE_PREFIX_CACHE_H_
