#include "engine/kv_cache/block_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace parallax {
namespace {

using ::testing::ElementsAre;

TEST(BlockTableTest, CountsPagesForTokens) {
  EXPECT_EQ(PagesForTokens(0), 0);
  EXPECT_EQ(PagesForTokens(1), 1);
  EXPECT_EQ(PagesForTokens(kPageTokens), 1);
  EXPECT_EQ(PagesForTokens(kPageTokens + 1), 2);
}

TEST(BlockTableTest, DropsFromTheFrontAndKeepsPositions) {
  BlockTable table;
  for (const int32_t page : {7, 8, 9}) table.Append(page);
  EXPECT_EQ(table.DropFirst(2), 7);
  EXPECT_EQ(table.DropFirst(2), 8);
  EXPECT_EQ(table.DropFirst(2), kNoPage);
  EXPECT_THAT(table.pages(), ElementsAre(kNoPage, kNoPage, 9));
  EXPECT_THAT(table.live_pages(), ElementsAre(9));
  EXPECT_EQ(table.Replace(2, 4), 9);
  EXPECT_EQ(table.page(2), 4);
}

TEST(BlockTableTest, BeginsBehindAWindow) {
  BlockTable table;
  table.Append(kNoPage);
  table.Append(3);
  EXPECT_EQ(table.first_live(), 1);
  BlockTable copy;
  copy.CopyFrom(table);
  EXPECT_THAT(copy.pages(), ElementsAre(kNoPage, 3));
  EXPECT_EQ(copy.PopBack(), 3);
  EXPECT_EQ(copy.PopBack(), kNoPage);
  EXPECT_EQ(copy.first_live(), 0);
  EXPECT_EQ(table.size(), 2);
}

TEST(BlockTableDeathTest, RefusesWhatWouldLoseAPage) {
  BlockTable table;
  table.Append(3);
  EXPECT_DEATH(table.Append(kNoPage), "only leading table entries");
  table.DropFirst(1);
  EXPECT_DEATH(table.Replace(0, 5), "only a live table entry");
  EXPECT_DEATH(table.DropFirst(2), "where there are some");
}

}  // namespace
}  // namespace parallax
