#include "engine/kv_cache/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace parallax {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int32_t> Ids(int32_t first, int32_t pages) {
  std::vector<int32_t> ids(static_cast<size_t>(pages) * kPageTokens);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

Hash128 SameHash(const Hash128&, std::span<const int32_t>) { return {.low = 5, .high = 5}; }
// Few values, and neighbours in the table.
Hash128 PoorHash(const Hash128& parent, std::span<const int32_t> tokens) {
  const Hash128 hash = HashPage(parent, tokens);
  return {.low = hash.low % 4, .high = hash.high % 3};
}

class PrefixCacheTest : public ::testing::Test {
 protected:
  // Writes and publishes `ids` as a sequence of its own would; returns its pages, referenced.
  std::vector<int32_t> Store(PrefixCache* cache, const std::vector<int32_t>& ids,
                             const std::string& root = "") {
    std::vector<int32_t> pages;
    const int32_t count = static_cast<int32_t>(ids.size()) / kPageTokens;
    EXPECT_TRUE(allocator_.Allocate(count, &pages));
    PrefixLink link = PrefixCache::Root(root);
    for (int32_t i = 0; i < count; ++i) {
      const auto page_ids = std::span(ids).subspan(size_t{kPageTokens} * i, kPageTokens);
      if (!cache->Publish(root, page_ids, pages[i], &link)) break;
    }
    return pages;
  }

  std::vector<int32_t> Find(const PrefixCache& cache, const std::vector<int32_t>& ids,
                            const std::string& root = "") {
    std::vector<int32_t> pages;
    cache.Match(root, ids, &pages);
    return pages;
  }

  void ReleaseBackwards(const std::vector<int32_t>& pages) {
    for (auto page = pages.rbegin(); page != pages.rend(); ++page) allocator_.Release(*page);
  }

  BlockAllocator allocator_{8};
  PrefixCache cache_{&allocator_, nullptr};
};

TEST_F(PrefixCacheTest, FindsFullPagesOfTheSamePrefix) {
  const std::vector<int32_t> pages = Store(&cache_, Ids(0, 3));
  EXPECT_EQ(Find(cache_, Ids(0, 3)), pages);
  std::vector<int32_t> ids = Ids(0, 2);
  ids.push_back(12345);  // a tail is no page
  EXPECT_THAT(Find(cache_, ids), ElementsAre(pages[0], pages[1]));
  ids = Ids(0, 3);
  ids[kPageTokens] += 1;
  EXPECT_THAT(Find(cache_, ids), ElementsAre(pages[0]));
  EXPECT_THAT(Find(cache_, Ids(1, 3)), IsEmpty());
}

TEST_F(PrefixCacheTest, APageIsNothingWithoutItsParent) {
  const std::vector<int32_t> ids = Ids(0, 2);
  Store(&cache_, ids);
  EXPECT_THAT(Find(cache_, std::vector<int32_t>(ids.begin() + kPageTokens, ids.end())), IsEmpty());
}

TEST_F(PrefixCacheTest, RootKeysKeepTenantsApart) {
  Store(&cache_, Ids(0, 1), "tenant a");
  EXPECT_THAT(Find(cache_, Ids(0, 1), "tenant b"), IsEmpty());
  EXPECT_THAT(Find(cache_, Ids(0, 1), "tenant a"), ::testing::SizeIs(1));
}

TEST_F(PrefixCacheTest, TheFirstOfTwoEqualPagesStays) {
  const std::vector<int32_t> first = Store(&cache_, Ids(0, 2));
  const std::vector<int32_t> second = Store(&cache_, Ids(0, 2));
  EXPECT_EQ(Find(cache_, Ids(0, 2)), first);
  ReleaseBackwards(second);
  EXPECT_EQ(allocator_.num_cached(), 0);  // duplicates are not kept
  EXPECT_EQ(cache_.CheckInvariants(), "");
}

TEST_F(PrefixCacheTest, UnreferencedPagesStayUntilTheyAreNeededChildrenFirst) {
  const std::vector<int32_t> pages = Store(&cache_, Ids(0, 3));
  ReleaseBackwards(pages);
  EXPECT_EQ(allocator_.num_cached(), 3);
  EXPECT_EQ(Find(cache_, Ids(0, 3)), pages);
  std::vector<int32_t> taken;
  ASSERT_TRUE(allocator_.Allocate(6, &taken));
  EXPECT_THAT(Find(cache_, Ids(0, 3)), ElementsAre(pages[0], pages[1]));
  EXPECT_EQ(cache_.CheckInvariants(), "");
}

TEST_F(PrefixCacheTest, AnEvictedParentTakesItsChildrenOutOfReachAndComesBackWithNewOnes) {
  const std::vector<int32_t> old = Store(&cache_, Ids(0, 2));
  allocator_.Release(old[0]);  // behind a sliding window, say
  std::vector<int32_t> taken;
  ASSERT_TRUE(allocator_.Allocate(7, &taken));
  EXPECT_THAT(Find(cache_, Ids(0, 2)), IsEmpty());
  EXPECT_TRUE(allocator_.marked_cached(old[1]));

  for (const int32_t page : taken) allocator_.Release(page);
  const std::vector<int32_t> fresh = Store(&cache_, Ids(0, 2));
  EXPECT_EQ(Find(cache_, Ids(0, 2)), fresh);
  EXPECT_FALSE(allocator_.marked_cached(old[1]));  // displaced, though still referenced
  EXPECT_EQ(cache_.CheckInvariants(), "");
}

TEST_F(PrefixCacheTest, AChainWhoseLastPageIsGoneEnds) {
  const std::vector<int32_t> pages = Store(&cache_, Ids(0, 1));
  PrefixLink link = cache_.LinkOf(pages[0]);
  cache_.Remove(pages[0]);
  std::vector<int32_t> next;
  ASSERT_TRUE(allocator_.Allocate(1, &next));
  EXPECT_FALSE(cache_.Publish("", Ids(64, 1), next[0], &link));
  EXPECT_EQ(cache_.size(), 0);
}

TEST_F(PrefixCacheTest, FlushForgetsWhatNobodyHolds) {
  const std::vector<int32_t> held = Store(&cache_, Ids(0, 2));
  ReleaseBackwards(Store(&cache_, Ids(1000, 3)));
  EXPECT_EQ(cache_.Flush(), 3);
  EXPECT_THAT(Find(cache_, Ids(1000, 3)), IsEmpty());
  EXPECT_EQ(Find(cache_, Ids(0, 2)), held);
  EXPECT_EQ(cache_.CheckInvariants(), "");
}

TEST_F(PrefixCacheTest, EqualHashesOfUnequalContentsAreMisses) {
  BlockAllocator allocator(8);
  PrefixCache cache(&allocator, nullptr, &SameHash);
  std::vector<int32_t> pages;
  ASSERT_TRUE(allocator.Allocate(3, &pages));
  PrefixLink first;
  ASSERT_TRUE(cache.Publish("", Ids(0, 1), pages[0], &first));
  EXPECT_THAT(Find(cache, Ids(7, 1)), IsEmpty());
  EXPECT_THAT(Find(cache, Ids(0, 1), "other tenant"), IsEmpty());
  PrefixLink child = first;
  EXPECT_FALSE(cache.Publish("", Ids(64, 1), pages[1], &child));  // would displace its parent

  PrefixLink second;  // another first page: takes the only place
  ASSERT_TRUE(cache.Publish("", Ids(7, 1), pages[2], &second));
  EXPECT_THAT(Find(cache, Ids(7, 1)), ElementsAre(pages[2]));
  EXPECT_THAT(Find(cache, Ids(0, 1)), IsEmpty());
  EXPECT_EQ(cache.CheckInvariants(), "");
}

class RecordingObserver : public PrefixCacheObserver {
 public:
  void OnStored(const PrefixLink& parent, const Hash128& hash,
                std::span<const int32_t> tokens) override {
    EXPECT_EQ(hash, HashPage(parent.hash, tokens));
    events.push_back("stored");
  }
  void OnRemoved(const Hash128&) override { events.push_back("removed"); }
  void OnCleared() override { events.push_back("cleared"); }
  std::vector<std::string> events;
};

TEST_F(PrefixCacheTest, TellsItsObserver) {
  RecordingObserver observer;
  PrefixCache cache(&allocator_, &observer);  // takes the place of cache_
  const std::vector<int32_t> held = Store(&cache, Ids(0, 1));
  ReleaseBackwards(Store(&cache, Ids(500, 1)));
  cache.Flush();
  cache.Remove(held[0]);
  ReleaseBackwards(Store(&cache, Ids(700, 1)));
  cache.Flush();
  EXPECT_THAT(observer.events,
              ElementsAre("stored", "stored", "removed", "removed", "stored", "cleared"));
}

// Sequences that come, share, publish and go, under a hash that collides all the time: what
// is found must be what was stored, page by page.
TEST_F(PrefixCacheTest, RandomTrafficNeverFindsTheWrongPage) {
  constexpr uint64_t kSeed = 99;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  BlockAllocator allocator(8);  // fewer than hash values: eviction leaves gaps in the table
  PrefixCache cache(&allocator, nullptr, &PoorHash);
  std::vector<std::vector<int32_t>> content(8);  // [page] all ids up to its end
  for (int i = 0; i < 20'000; ++i) {
    std::vector<int32_t> ids;
    for (int page = 0; page < 4; ++page) {
      const std::vector<int32_t> next = Ids(static_cast<int32_t>(random() % 3), 1);
      ids.insert(ids.end(), next.begin(), next.end());
    }
    std::vector<int32_t> pages;
    cache.Match("", ids, &pages);
    for (size_t p = 0; p < pages.size(); ++p) {
      allocator.AddReference(pages[p]);
      ASSERT_EQ(content[pages[p]],
                std::vector<int32_t>(ids.begin(), ids.begin() + (p + 1) * kPageTokens))
          << "round " << i;
    }
    PrefixLink link = pages.empty() ? PrefixCache::Root("") : cache.LinkOf(pages.back());
    size_t done = pages.size();
    ASSERT_TRUE(allocator.Allocate(static_cast<int32_t>(4 - done), &pages));
    for (bool alive = true; done < 4; ++done) {
      content[pages[done]].assign(ids.begin(), ids.begin() + (done + 1) * kPageTokens);
      const auto page_ids = std::span(ids).subspan(done * kPageTokens, kPageTokens);
      alive = alive && cache.Publish("", page_ids, pages[done], &link);
    }
    for (auto page = pages.rbegin(); page != pages.rend(); ++page) allocator.Release(*page);
    ASSERT_EQ(cache.CheckInvariants(), "");
    ASSERT_EQ(allocator.CheckInvariants(), "");
  }
}

}  // namespace
}  // namespace parallax
