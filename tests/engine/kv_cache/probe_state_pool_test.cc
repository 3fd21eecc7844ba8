#include "engine/kv_cache/probe_state_pool.h"

#include <gtest/gtest.h>

namespace parallax {
namespace {

TEST(ProbeStatePoolTest, AStateIsThreeScalarsAndTwoVectors) {
  EXPECT_EQ(ProbeStatePool::StateBytes(128), (3 + 256) * 4);
}

TEST(ProbeStatePoolTest, GivesOutNoMoreThanItHas) {
  ProbeStatePool pool({.max_split_rows = 4, .num_heads = 16, .head_dim = 128, .max_splits = 8});
  EXPECT_EQ(pool.capacity_bytes(), 4 * 16 * 8 * ProbeStatePool::StateBytes(128));
  EXPECT_TRUE(pool.Acquire(/*rows=*/3, /*splits=*/8));
  EXPECT_FALSE(pool.Acquire(2, 8));
  EXPECT_EQ(pool.used_bytes(), 3 * 16 * 8 * ProbeStatePool::StateBytes(128));
  EXPECT_TRUE(pool.Acquire(1, 8));
  EXPECT_EQ(pool.used_bytes(), pool.capacity_bytes());
  pool.ReleaseAll();
  EXPECT_EQ(pool.used_bytes(), 0);
  EXPECT_EQ(pool.peak_bytes(), pool.capacity_bytes());
}

TEST(ProbeStatePoolTest, MayBeEmpty) {
  ProbeStatePool pool({});
  EXPECT_EQ(pool.capacity_bytes(), 0);
  EXPECT_TRUE(pool.Acquire(0, 8));
}

}  // namespace
}  // namespace parallax
