#include "engine/runner/token_counter.h"

#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace parallax {
namespace {

// Against a std::map, over random sequences and repeated use of one counter.
TEST(TokenCounter, CountsLikeAMap) {
  const uint64_t seed = 4711;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  TokenCounter counter;
  for (int round = 0; round < 200; ++round) {
    const int vocab = 1 + static_cast<int>(random() % 300);
    const auto draw = [&](size_t count) {
      std::vector<int32_t> tokens(random() % count);
      for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
      return tokens;
    };
    const std::vector<int32_t> prompt = draw(100);
    const std::vector<int32_t> generated = draw(50);
    const std::vector<int32_t> more = draw(50);
    counter.Reset(prompt, generated, generated.size() + more.size());
    for (const int32_t token : more) counter.AddOutput(token);

    std::map<int32_t, int32_t> expected;
    for (const int32_t token : prompt) expected[token];
    for (const int32_t token : generated) ++expected[token];
    for (const int32_t token : more) ++expected[token];
    ASSERT_EQ(counter.counts().size(), expected.size());
    for (const kernels::TokenCount& entry : counter.counts()) {
      ASSERT_TRUE(expected.contains(entry.token));
      ASSERT_EQ(entry.output_count, expected[entry.token]);
    }
  }
}

}  // namespace
}  // namespace parallax
