// Bitwise invariance: a row's result depends on its own q, r, position and stored keys and
// values, and on nothing else.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/parallax_attention.h"
#include "tests/kernels/attention_harness.h"
#include "tests/kernels/reference/attention_reference.h"

namespace parallax::kernels {
namespace {

using reference::AttentionProblem;

constexpr DType kCacheTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

struct InvarianceCase {
  ProblemShape shape;
  DType cache_dtype = DType::kBFloat16;
};

std::vector<InvarianceCase> Cases() {
  std::vector<InvarianceCase> cases;
  for (DType dtype : kCacheTypes) {
    for (int group : {1, 3, 8}) {
      cases.push_back({{75, 140, 2 * group, 2, 64}, dtype});
      cases.push_back({{75, 140, 2 * group, 2, 64, /*window=*/50}, dtype});
    }
    cases.push_back({{75, 140, 4, 2, 128, 0, /*probe=*/false}, dtype});
  }
  cases.push_back({{20, 2 * kKeysPerSplit + 10, 2, 1, 64}, DType::kBFloat16});
  return cases;
}

TEST(ParallaxAttentionInvarianceTest, Chunking) {
  std::mt19937 rng(1);
  for (const InvarianceCase& test : Cases()) {
    const AttentionProblem problem = RandomProblem(test.shape, test.cache_dtype, rng);
    HarnessOptions options;
    options.cache_dtype = test.cache_dtype;
    const auto whole = RunAttention({problem}, options);
    for (int chunk : {1, 7, 64}) {
      options.chunk = chunk;
      EXPECT_EQ(RunAttention({problem}, options), whole)
          << "chunk " << chunk << " group " << test.shape.query_heads / test.shape.kv_heads
          << " cache " << DTypeName(test.cache_dtype) << " window " << test.shape.window;
    }
  }
}

TEST(ParallaxAttentionInvarianceTest, ThreadsAndPageOrder) {
  std::mt19937 rng(2);
  for (const InvarianceCase& test : Cases()) {
    const AttentionProblem problem = RandomProblem(test.shape, test.cache_dtype, rng);
    HarnessOptions options;
    options.cache_dtype = test.cache_dtype;
    options.threads = 1;
    const auto alone = RunAttention({problem}, options);
    for (int threads : {2, 4}) {
      options.threads = threads;
      options.page_order_seed = threads;
      EXPECT_EQ(RunAttention({problem}, options), alone) << "threads " << threads;
    }
  }
}

TEST(ParallaxAttentionInvarianceTest, BatchMates) {
  std::mt19937 rng(3);
  for (const InvarianceCase& test : Cases()) {
    HarnessOptions options;
    options.cache_dtype = test.cache_dtype;
    std::vector<AttentionProblem> batch;
    for (int i = 0; i < 5; ++i) {
      ProblemShape shape = test.shape;
      if (i > 0) shape.context = 1 + rng() % 150;
      if (i > 0) shape.query_rows = 1 + rng() % shape.context;
      batch.push_back(RandomProblem(shape, test.cache_dtype, rng));
    }
    const auto together = RunAttention(batch, options);
    for (size_t i = 0; i < batch.size(); ++i) {
      EXPECT_EQ(RunAttention({batch[i]}, options).front(), together[i]) << "sequence " << i;
    }
  }
}

// One long decode row: its key splits become tasks of their own with several threads, and are
// folded by a single task with one.
TEST(ParallaxAttentionInvarianceTest, ParallelKeySplits) {
  std::mt19937 rng(4);
  for (int window : {0, 1500}) {
    const ProblemShape shape{1, 4 * kKeysPerSplit + 77, 3, 1, 64, window};
    const AttentionProblem problem = RandomProblem(shape, DType::kBFloat16, rng);
    HarnessOptions options;
    options.cache_dtype = DType::kBFloat16;
    options.threads = 1;
    const auto serial = RunAttention({problem}, options);
    options.threads = 4;
    EXPECT_EQ(RunAttention({problem}, options), serial) << "window " << window;
    const AttentionProblem mate = RandomProblem({40, 40, 3, 1, 64, window}, DType::kBFloat16, rng);
    EXPECT_EQ(RunAttention({mate, problem}, options)[1], serial[0]) << "window " << window;
  }
}

}  // namespace
}  // namespace parallax::kernels
