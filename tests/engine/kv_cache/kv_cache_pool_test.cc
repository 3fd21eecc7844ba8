#include "engine/kv_cache/kv_cache_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace parallax {
namespace {

using ::testing::HasSubstr;

constexpr KvCacheGeometry k06B{
    .num_layers = 28, .num_kv_heads = 8, .head_dim = 128, .element_bytes = 2};

TEST(KvCachePoolTest, APageIsKeysAndValuesOfAllLayers) {
  // One (page, head) of D = 128 in bf16 is 16 KiB.
  EXPECT_EQ(PageBytes(k06B), int64_t{28} * 2 * 8 * 16 * 1024);
}

TEST(KvCachePoolTest, CountsWholePages) {
  const int64_t page = PageBytes(k06B);
  EXPECT_EQ(*PagesForBudget(k06B, 10 * page + page - 1, 640), 10);
}

TEST(KvCachePoolTest, SaysWhatToLower) {
  const absl::Status status = PagesForBudget(k06B, 10 * PageBytes(k06B), 641).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("holds 10 pages of 7.000 MiB"));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("raise the budget to 77.0 MiB or lower max_context_tokens to 640"));
}

TEST(KvCachePoolTest, NamesANumberThatIsNotPositive) {
  KvCacheGeometry geometry = k06B;
  geometry.num_kv_heads = 0;
  const absl::Status status = PagesForBudget(geometry, 1 << 30, 64).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("num_kv_heads is 0"));
  EXPECT_EQ(PagesForBudget(k06B, -1, 64).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace parallax
