#include "engine/kv_cache/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engine/kv_cache/invariant.h"

namespace parallax {
namespace {

Hash128 FromXxh(const XXH128_hash_t& hash) { return {.low = hash.low64, .high = hash.high64}; }

}  // namespace

Hash128 HashPage(const Hash128& parent, std::span<const int32_t> tokens) {
  struct {
    uint64_t parent[2];
    int32_t tokens[kPageTokens];
  } key;
  CheckInvariant(tokens.size() == kPageTokens, "only full pages are hashed");
  key.parent[0] = parent.low;
  key.parent[1] = parent.high;
  std::memcpy(key.tokens, tokens.data(), sizeof(key.tokens));
  return FromXxh(XXH3_128bits(&key, sizeof(key)));
}

PrefixCache::PrefixCache(BlockAllocator* allocator, PrefixCacheObserver* observer,
                         HashFunction hash)
    : allocator_(allocator), observer_(observer), hash_(hash) {
  const size_t pages = static_cast<size_t>(allocator->num_pages());
  entries_.resize(pages);
  tokens_.resize(pages * kPageTokens);
  root_keys_.resize(pages);
  table_.assign(std::bit_ceil(2 * pages + 2), kNoPage);
  mask_ = table_.size() - 1;
  allocator_->set_eviction_listener(this);
}

PrefixCache::~PrefixCache() { allocator_->set_eviction_listener(nullptr); }

PrefixLink PrefixCache::Root(std::string_view root_key) {
  PrefixLink root;
  root.hash = FromXxh(XXH3_128bits(root_key.data(), root_key.size()));
  return root;
}

void PrefixCache::Match(std::string_view root_key, std::span<const int32_t> tokens,
                        std::vector<int32_t>* pages) const {
  pages->clear();
  PrefixLink link = Root(root_key);
  for (; tokens.size() >= kPageTokens; tokens = tokens.subspan(kPageTokens)) {
    const std::span<const int32_t> ids = tokens.first(kPageTokens);
    const int32_t page = Find(hash_(link.hash, ids));
    if (page == kNoPage || !Holds(page, link, root_key, ids)) {
      return;
    }
    pages->push_back(page);
    link = LinkOf(page);
  }
}

PrefixLink PrefixCache::LinkOf(int32_t page) const {
  const Entry& entry = entries_[page];
  CheckInvariant(entry.publication != 0, "only a cached page has a link");
  return {.page = page, .publication = entry.publication, .hash = entry.hash};
}

bool PrefixCache::Publish(std::string_view root_key, std::span<const int32_t> tokens, int32_t page,
                          PrefixLink* link) {
  if (!Alive(*link)) {
    return false;
  }
  const Hash128 hash = hash_(link->hash, tokens);
  const int32_t earlier = Find(hash);
  if (earlier != kNoPage && Holds(earlier, *link, root_key, tokens)) {
    *link = LinkOf(earlier);
    return true;
  }
  if (earlier != kNoPage && earlier == link->page) {
    return false;  // a child that collides with its own parent cannot displace it
  }
  if (earlier != kNoPage) {
    Remove(earlier);  // an orphan of this content, or a true collision: the newer one wins
  }
  Remove(page);  // shared, and published by another holder after a parent that is gone
  entries_[page] = {.hash = hash, .publication = ++last_publication_, .parent = link->publication};
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + int64_t{page} * kPageTokens);
  root_keys_[page].assign(link->publication == 0 ? root_key : std::string_view());
  Insert(page);
  allocator_->MarkCached(page);
  if (observer_ != nullptr) {
    observer_->OnStored(*link, hash, tokens);
  }
  *link = LinkOf(page);
  return true;
}

void PrefixCache::Remove(int32_t page) {
  if (entries_[page].publication == 0) {
    return;
  }
  OnEvict(page);
  allocator_->UnmarkCached(page);
}

int32_t PrefixCache::Flush() {
  clearing_ = size_ == allocator_->num_cached();
  const int32_t flushed = allocator_->EvictAll();
  if (clearing_ && observer_ != nullptr) {
    observer_->OnCleared();
  }
  clearing_ = false;
  return flushed;
}

void PrefixCache::OnEvict(int32_t page) {
  Erase(page);
  const Hash128 hash = entries_[page].hash;
  entries_[page] = Entry{};
  if (observer_ != nullptr && !clearing_) {
    observer_->OnRemoved(hash);
  }
}

bool PrefixCache::Holds(int32_t page, const PrefixLink& parent, std::string_view root_key,
                        std::span<const int32_t> tokens) const {
  return entries_[page].parent == parent.publication &&
         (parent.publication != 0 || root_keys_[page] == root_key) &&
         std::ranges::equal(TokensOf(page), tokens);
}

bool PrefixCache::Alive(const PrefixLink& link) const {
  return link.publication == 0 || entries_[link.page].publication == link.publication;
}

std::span<const int32_t> PrefixCache::TokensOf(int32_t page) const {
  return std::span(tokens_).subspan(static_cast<size_t>(page) * kPageTokens, kPageTokens);
}

int32_t PrefixCache::Find(const Hash128& hash) const {
  for (size_t i = Home(hash);; i = (i + 1) & mask_) {
    const int32_t page = table_[i];
    if (page == kNoPage || entries_[page].hash == hash) {
      return page;
    }
  }
}

void PrefixCache::Insert(int32_t page) {
  size_t i = Home(entries_[page].hash);
  while (table_[i] != kNoPage) {
    i = (i + 1) & mask_;
  }
  table_[i] = page;
  ++size_;
}

// Backward-shift deletion: whatever probed past the gap moves into it.
void PrefixCache::Erase(int32_t page) {
  size_t gap = Home(entries_[page].hash);
  while (table_[gap] != page) {
    CheckInvariant(table_[gap] != kNoPage, "a cached page is in the table");
    gap = (gap + 1) & mask_;
  }
  for (size_t i = (gap + 1) & mask_; table_[i] != kNoPage; i = (i + 1) & mask_) {
    const size_t home = Home(entries_[table_[i]].hash);
    if (((i - home) & mask_) >= ((i - gap) & mask_)) {
      table_[gap] = table_[i];
      gap = i;
    }
  }
  table_[gap] = kNoPage;
  --size_;
}

std::string PrefixCache::CheckInvariants() const {
  int32_t count = 0;
  for (int32_t page = 0; page < allocator_->num_pages(); ++page) {
    const bool held = entries_[page].publication != 0;
    if (held != allocator_->marked_cached(page)) {
      return "page " + std::to_string(page) + " is cached for one side only";
    }
    if (held && Find(entries_[page].hash) != page) {
      return "page " + std::to_string(page) + " is cached but not found";
    }
    count += held ? 1 : 0;
  }
  return count == size_ ? "" : "count of cached pages is wrong";
}

}  // namespace parallax
