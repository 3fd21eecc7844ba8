#include "engine/kv_cache/block_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace parallax {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class RecordingListener : public BlockAllocator::EvictionListener {
 public:
  void OnEvict(int32_t page) override { evicted.push_back(page); }
  std::vector<int32_t> evicted;
};

std::vector<int32_t> Take(BlockAllocator* allocator, int32_t count) {
  std::vector<int32_t> pages;
  EXPECT_TRUE(allocator->Allocate(count, &pages));
  return pages;
}

TEST(BlockAllocatorTest, AllocatesAllOrNothing) {
  BlockAllocator allocator(3);
  std::vector<int32_t> pages = Take(&allocator, 2);
  EXPECT_FALSE(allocator.Allocate(2, &pages));
  EXPECT_EQ(pages.size(), 2u);
  EXPECT_EQ(allocator.num_free(), 1);
  EXPECT_TRUE(allocator.Allocate(0, &pages));
  EXPECT_EQ(allocator.num_used(), 2);
  EXPECT_EQ(allocator.CheckInvariants(), "");
}

TEST(BlockAllocatorTest, CountsReferences) {
  BlockAllocator allocator(1);
  const int32_t page = Take(&allocator, 1).front();
  allocator.AddReference(page);
  allocator.Release(page);
  EXPECT_EQ(allocator.num_used(), 1);
  allocator.Release(page);
  EXPECT_EQ(allocator.num_free(), 1);
}

TEST(BlockAllocatorTest, ReclaimsCachedPagesLeastRecentlyReleasedFirstAndOnlyWhenNoneIsFree) {
  BlockAllocator allocator(4);
  RecordingListener listener;
  allocator.set_eviction_listener(&listener);
  const std::vector<int32_t> pages = Take(&allocator, 3);
  for (const int32_t page : pages) allocator.MarkCached(page);
  for (const int32_t i : {1, 0, 2}) allocator.Release(pages[i]);
  EXPECT_EQ(allocator.num_cached(), 3);

  Take(&allocator, 1);  // the free one
  EXPECT_THAT(listener.evicted, IsEmpty());
  allocator.AddReference(pages[1]);  // found again: now the most recent
  allocator.Release(pages[1]);
  EXPECT_THAT(Take(&allocator, 2), ElementsAre(pages[0], pages[2]));
  EXPECT_THAT(listener.evicted, ElementsAre(pages[0], pages[2]));
  EXPECT_FALSE(allocator.marked_cached(pages[0]));
  EXPECT_EQ(allocator.CheckInvariants(), "");
}

TEST(BlockAllocatorTest, AnUnmarkedPageIsFree) {
  BlockAllocator allocator(2);
  const std::vector<int32_t> pages = Take(&allocator, 2);
  allocator.MarkCached(pages[0]);
  allocator.MarkCached(pages[1]);
  allocator.Release(pages[0]);
  allocator.UnmarkCached(pages[0]);
  allocator.UnmarkCached(pages[1]);  // still used
  EXPECT_EQ(allocator.num_free(), 1);
  EXPECT_EQ(allocator.num_used(), 1);
  allocator.Release(pages[1]);
  EXPECT_EQ(allocator.num_free(), 2);
  EXPECT_EQ(allocator.CheckInvariants(), "");
}

TEST(BlockAllocatorTest, EvictsAllButUsedPages) {
  BlockAllocator allocator(3);
  const std::vector<int32_t> pages = Take(&allocator, 3);
  for (const int32_t page : pages) allocator.MarkCached(page);
  allocator.Release(pages[0]);
  allocator.Release(pages[2]);
  EXPECT_EQ(allocator.EvictAll(), 2);
  EXPECT_EQ(allocator.num_free(), 2);
  EXPECT_TRUE(allocator.marked_cached(pages[1]));
}

TEST(BlockAllocatorDeathTest, RefusesMiscounting) {
  BlockAllocator allocator(2);
  const int32_t page = Take(&allocator, 1).front();
  allocator.Release(page);
  EXPECT_DEATH(allocator.Release(page), "at most once per reference");
  EXPECT_DEATH(allocator.AddReference(page), "only through Allocate");
  EXPECT_DEATH(allocator.MarkCached(page), "only a used page");
}

// Against a model that keeps a plain count per page.
TEST(BlockAllocatorTest, RandomOperationsKeepTheCounts) {
  constexpr uint64_t kSeed = 20240611;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  constexpr int32_t kPages = 13;
  BlockAllocator allocator(kPages);
  std::vector<int32_t> references(kPages), scratch;
  for (int i = 0; i < 50'000; ++i) {
    const int32_t page = static_cast<int32_t>(random() % kPages);
    switch (random() % 6) {
      case 0:
        scratch.clear();
        if (allocator.Allocate(static_cast<int32_t>(random() % 4), &scratch)) {
          for (const int32_t taken : scratch) ASSERT_EQ(references[taken]++, 0);
        }
        break;
      case 1:
        if (references[page] > 0 || allocator.marked_cached(page)) {
          allocator.AddReference(page);
          ++references[page];
        }
        break;
      case 2:
      case 3:
        if (references[page] > 0) {
          allocator.Release(page);
          --references[page];
        }
        break;
      case 4:
        if (references[page] > 0) allocator.MarkCached(page);
        break;
      default:
        allocator.UnmarkCached(page);
    }
    ASSERT_EQ(allocator.references(page), references[page]);
    ASSERT_EQ(allocator.CheckInvariants(), "") << "operation " << i;
  }
}

}  // namespace
}  // namespace parallax
