#include "server/chunk_outbox.h"

#include <map>
#include <memory>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/output_size.h"

namespace parallax::server {
namespace {

using ::testing::ElementsAre;

OutputDelta Delta(int choice, std::string text, std::vector<int32_t> ids) {
  OutputDelta delta;
  delta.choice = choice;
  delta.text = std::move(text);
  delta.token_ids = std::move(ids);
  return delta;
}

TEST(ChunkOutboxTest, CoalescesPerChoiceInOrderOfArrival) {
  ChunkOutbox outbox(1 << 20, nullptr);
  ASSERT_TRUE(outbox.Add(Delta(1, "a", {1})));
  ASSERT_TRUE(outbox.Add(Delta(0, "x", {9})));
  ASSERT_TRUE(outbox.Add(Delta(1, "b", {2, 3})));
  OutputDelta delta = outbox.Take().delta;
  EXPECT_EQ(delta.choice, 1);
  EXPECT_EQ(delta.text, "ab");
  EXPECT_THAT(delta.token_ids, ElementsAre(1, 2, 3));
  delta = outbox.Take().delta;
  EXPECT_EQ(delta.choice, 0);
  EXPECT_EQ(delta.text, "x");
  EXPECT_TRUE(outbox.empty());
}

TEST(ChunkOutboxTest, BoundsWhatWaits) {
  ChunkOutbox outbox(4096, nullptr);
  int added = 0;
  while (outbox.Add(Delta(added % 2, std::string(100, 't'), {1}))) ++added;
  EXPECT_GT(added, 10);
  EXPECT_LT(added, 41);
  EXPECT_EQ(outbox.Take().delta.text.size(), 50u * static_cast<size_t>(added + added % 2));
  EXPECT_TRUE(outbox.Add(Delta(0, "room again", {1})));
}

TEST(ChunkOutboxTest, TheStartLeavesWithTheFirstChunkAndIsNotCounted) {
  ChunkOutbox outbox(4096, nullptr);
  const auto echo = std::make_shared<const Echo>(Echo{std::string(100'000, 'e'), {}, nullptr});
  outbox.Start({.prompt_tokens = 3, .cached_tokens = 2, .prompt_logprobs = nullptr, .echo = echo});
  EXPECT_TRUE(outbox.empty()) << "the first token comes at once";
  ASSERT_TRUE(outbox.Add(Delta(1, "a", {1})));
  ASSERT_TRUE(outbox.Add(Delta(0, "b", {2})));
  const OutputChunk first = outbox.Take();
  EXPECT_EQ(first.start->echo, echo) << "not a copy";
  EXPECT_EQ(first.delta.text, "a");
  EXPECT_FALSE(outbox.Take().start.has_value());
}

TEST(ChunkOutboxTest, ChunksStayFarBelowGrpcsLimit) {
  ChunkOutbox outbox(64 << 20, nullptr);
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(outbox.Add(Delta(0, std::string(1000, 'x'), std::vector<int32_t>(100, 7))));
  }
  size_t text = 0;
  int chunks = 0;
  for (; !outbox.empty(); ++chunks) {
    const OutputDelta delta = outbox.Take().delta;
    EXPECT_LE(DeltaBytes(delta, nullptr), kMaxChunkBytes);
    text += delta.text.size();
  }
  EXPECT_EQ(text, 2'000'000u);
  EXPECT_GT(chunks, 5);
}

// Whatever the interleaving of Add and Take, each choice's stream is what was added.
TEST(ChunkOutboxTest, RandomInterleavingsLoseNothing) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    ChunkOutbox outbox(1 << 20, nullptr);
    std::map<int, std::string> added, taken;
    std::map<int, int> finishes;
    const auto take = [&] {
      const OutputDelta delta = outbox.Take().delta;
      EXPECT_EQ(finishes[delta.choice], 0) << "output after the finish";
      taken[delta.choice] += delta.text;
      finishes[delta.choice] += delta.finish.has_value() ? 1 : 0;
    };
    for (int i = 0; i < 500; ++i) {
      if (random() % 3 == 0 && !outbox.empty()) take();
      const int choice = static_cast<int>(random() % 5);
      const std::string text(random() % 4000, static_cast<char>('a' + i % 26));
      if (outbox.Add(Delta(choice, text, {i}))) added[choice] += text;
    }
    for (int choice = 0; choice < 5; ++choice) {
      OutputDelta last = Delta(choice, "", {});
      last.finish = ChoiceFinish{};
      while (!outbox.Add(last)) take();
    }
    while (!outbox.empty()) take();
    for (int choice = 0; choice < 5; ++choice) {
      EXPECT_EQ(taken[choice], added[choice]);
      EXPECT_EQ(finishes[choice], 1);
    }
  }
}

}  // namespace
}  // namespace parallax::server
