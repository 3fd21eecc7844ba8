#include "engine/runner/token_counter.h"

#include <algorithm>
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
    const size_t tokens = prompt.size() + generated.size() + more.size();
    counter.Reset(prompt, generated, std::min(tokens, static_cast<size_t>(vocab)));
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

// A step allocates nothing: all of it is there from the start.
TEST(TokenCounter, StaysWhereItWasReserved) {
  const std::vector<int32_t> prompt = {5, 6, 7};
  TokenCounter counter;
  counter.Reserve(200);
  counter.Reset(prompt, {}, 10);
  const kernels::TokenCount* const place = counter.counts().data();
  std::vector<int32_t> many(200);
  for (int32_t i = 0; i < 200; ++i) many[i] = i;
  counter.Reset(prompt, many, 200);
  EXPECT_EQ(counter.counts().size(), 200u);
  EXPECT_EQ(counter.counts().data(), place);
  EXPECT_GE(TokenCounter::BytesFor(200), 200 * (sizeof(kernels::TokenCount) + sizeof(int32_t)));
}

}  // namespace
}  // namespace parallax
