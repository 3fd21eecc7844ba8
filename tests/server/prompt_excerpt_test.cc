#include "server/prompt_excerpt.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace parallax::server {
namespace {

TEST(PromptExcerptTest, WithoutATokenizerItIsTheIds) {
  const std::vector<int32_t> prompt = {5, 17, 3};
  const PromptExcerpt excerpt = ExcerptPrompt(prompt, nullptr);
  EXPECT_EQ(excerpt.text, "5 17 3");
  EXPECT_FALSE(excerpt.is_cut);
}

TEST(PromptExcerptTest, IsBounded) {
  for (const size_t tokens : {size_t{1000}, size_t{1'000'000}}) {
    const PromptExcerpt excerpt = ExcerptPrompt(std::vector<int32_t>(tokens, 123), nullptr);
    EXPECT_EQ(excerpt.text.size(), kMaxExcerptBytes);
    EXPECT_TRUE(excerpt.is_cut);
  }
}

}  // namespace
}  // namespace parallax::server
