// ParallaxAttention against the fp64 oracle and the laws of the operator.
#include "kernels/parallax_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/attention_harness.h"
#include "tests/kernels/reference/attention_reference.h"
#include "tests/kernels/reference/captured_attention.h"

namespace parallax::kernels {
namespace {

using reference::Attention;
using reference::AttentionProblem;

constexpr double kTolerance = 2e-5;
constexpr DType kCacheTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

std::vector<float> RunOne(const AttentionProblem& problem, DType cache_dtype = DType::kFloat32) {
  HarnessOptions options;
  options.cache_dtype = cache_dtype;
  return RunAttention({problem}, options).front();
}

double WorstError(const std::vector<AttentionProblem>& problems, DType cache_dtype) {
  HarnessOptions options;
  options.cache_dtype = cache_dtype;
  const auto outs = RunAttention(problems, options);
  double worst = 0.0;
  for (size_t i = 0; i < problems.size(); ++i) {
    worst = std::max(worst, RelativeError(outs[i], Attention(problems[i])));
  }
  return worst;
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max<double>(largest, std::abs(a[i] - b[i]));
  }
  return largest;
}

TEST(ParallaxAttentionTest, AgreesWithOracleAtPageEdges) {
  std::mt19937 rng(1);
  for (int context : {1, 2, 63, 64, 65, 127, 128, 129, 300}) {
    for (int query_rows : {1, context}) {
      for (int head_dim : {64, 128}) {
        const ProblemShape shape{query_rows, context, 4, 2, head_dim};
        const AttentionProblem problem = RandomProblem(shape, DType::kFloat32, rng);
        EXPECT_LE(RelativeError(RunOne(problem), Attention(problem)), kTolerance)
            << "context " << context << " rows " << query_rows << " head_dim " << head_dim;
      }
    }
  }
}

TEST(ParallaxAttentionTest, AgreesWithOracleForEveryGroupAndCacheType) {
  std::mt19937 rng(2);
  for (int group : {1, 2, 3, 4, 8, 16}) {
    for (DType dtype : kCacheTypes) {
      for (bool probe : {true, false}) {
        const ProblemShape shape{70, 133, 2 * group, 2, 64, 0, probe};
        const AttentionProblem problem = RandomProblem(shape, dtype, rng);
        EXPECT_LE(RelativeError(RunOne(problem, dtype), Attention(problem)), kTolerance)
            << "group " << group << " cache " << DTypeName(dtype) << " probe " << probe;
      }
    }
  }
}

TEST(ParallaxAttentionTest, AgreesWithOracleOnRandomBatches) {
  for (uint32_t seed = 1; seed <= 25; ++seed) {
    std::mt19937 rng(seed);
    const auto pick = [&](std::vector<int> choices) { return choices[rng() % choices.size()]; };
    ProblemShape shape;
    shape.kv_heads = pick({1, 2, 3});
    shape.query_heads = shape.kv_heads * pick({1, 2, 3, 4, 8});
    shape.head_dim = pick({16, 64, 80, 128, 256});
    shape.window = pick({0, 0, 1, 5, 64, 100});
    shape.probe = rng() % 4 != 0;
    HarnessOptions options;
    options.cache_dtype = kCacheTypes[rng() % 3];
    options.threads = 1 + rng() % 4;
    options.page_order_seed = seed;
    std::vector<AttentionProblem> problems;
    const int sequences = 1 + rng() % 6;
    for (int i = 0; i < sequences; ++i) {
      shape.context = 1 + rng() % 200;
      shape.query_rows = rng() % 2 == 0 ? 1 : 1 + rng() % shape.context;
      problems.push_back(RandomProblem(shape, options.cache_dtype, rng));
    }
    const auto outs = RunAttention(problems, options);
    for (int i = 0; i < sequences; ++i) {
      EXPECT_LE(RelativeError(outs[i], Attention(problems[i])), kTolerance)
          << "seed " << seed << " sequence " << i;
    }
  }
}

TEST(ParallaxAttentionTest, AgreesWithOracleAcrossKeySplits) {
  std::mt19937 rng(3);
  for (int context : {kKeysPerSplit, kKeysPerSplit + 1, 2 * kKeysPerSplit + 500}) {
    for (int window : {0, 700, 1500}) {
      const ProblemShape shape{3, context, 2, 1, 64, window};
      const AttentionProblem problem = RandomProblem(shape, DType::kBFloat16, rng);
      EXPECT_LE(RelativeError(RunOne(problem, DType::kBFloat16), Attention(problem)), kTolerance)
          << "context " << context << " window " << window;
    }
  }
}

TEST(ParallaxAttentionTest, SlidingWindowSeesExactlyItsKeys) {
  std::mt19937 rng(4);
  for (int window : {1, 2, 63, 64, 65, 128, 400}) {
    const ProblemShape shape{150, 260, 4, 2, 64, window};
    const AttentionProblem problem = RandomProblem(shape, DType::kFloat32, rng);
    EXPECT_LE(RelativeError(RunOne(problem), Attention(problem)), kTolerance)
        << "window " << window;
  }
}

TEST(ParallaxAttentionTest, ZeroProbeIsSoftmax) {
  std::mt19937 rng(5);
  AttentionProblem problem = RandomProblem({40, 100, 4, 2, 64}, DType::kFloat32, rng);
  std::fill(problem.r.begin(), problem.r.end(), 0.0f);
  const std::vector<float> with_zero_probe = RunOne(problem);
  problem.r.clear();
  EXPECT_LE(LargestDifference(with_zero_probe, RunOne(problem)), 1e-6);
}

TEST(ParallaxAttentionTest, HugeProbe) {
  std::mt19937 rng(6);
  AttentionProblem problem = RandomProblem({40, 200, 4, 2, 128}, DType::kFloat32, rng);
  for (float& x : problem.r) x *= 1000.0f;
  EXPECT_LE(RelativeError(RunOne(problem), Attention(problem)), 1e-4);
}

// Keys whose mean is far from zero give every s2 a large common part, which cancels in out: the
// case that centring exists for.
TEST(ParallaxAttentionTest, LargeProbeOfKeysWithLargeMean) {
  std::mt19937 rng(7);
  AttentionProblem problem = RandomProblem({20, 300, 2, 1, 64}, DType::kFloat32, rng);
  for (float& x : problem.k) x += 30.0f;
  for (float& x : problem.q) x *= 0.1f;
  for (float& x : problem.r) x *= 10.0f;
  EXPECT_LE(RelativeError(RunOne(problem), Attention(problem)), 2e-4);
}

// Trained probes: the correction is up to ten times the softmax output, which it all but cancels.
TEST(ParallaxAttentionTest, CapturedFromTheDefaultModel) {
  for (const AttentionProblem& captured :
       reference::ReadCapturedAttention(reference::kDefaultModelAttention)) {
    for (const auto& problems : {std::vector{captured}, reference::SplitIntoRows(captured)}) {
      const double softmax = WorstError(reference::WithZeroProbes(problems), DType::kBFloat16);
      const double probed = WorstError(problems, DType::kBFloat16);
      EXPECT_LE(probed, kTolerance);
      EXPECT_LE(probed, 3 * softmax);
    }
  }
}

TEST(ParallaxAttentionTest, HugeLogits) {
  std::mt19937 rng(8);
  AttentionProblem problem = RandomProblem({30, 150, 2, 1, 64}, DType::kFloat32, rng);
  for (float& x : problem.q) x *= 1e4f;  // logits of +-1e4: nearly one-hot softmax
  EXPECT_LE(RelativeError(RunOne(problem), Attention(problem)), 1e-2);
}

TEST(ParallaxAttentionTest, ConstantAddedToValuesAddsItself) {
  std::mt19937 rng(9);
  AttentionProblem problem = RandomProblem({30, 150, 4, 2, 64}, DType::kFloat32, rng);
  const std::vector<float> before = RunOne(problem);
  for (float& x : problem.v) x += 3.0f;
  std::vector<float> after = RunOne(problem);
  for (float& x : after) x -= 3.0f;
  EXPECT_LE(LargestDifference(after, before), 2e-4);
}

TEST(ParallaxAttentionTest, ConstantVectorAddedToKeysChangesNothing) {
  std::mt19937 rng(10);
  AttentionProblem problem = RandomProblem({30, 150, 4, 2, 64}, DType::kFloat32, rng);
  const std::vector<float> before = RunOne(problem);
  for (size_t i = 0; i < problem.k.size(); ++i) problem.k[i] += 0.25f * (i % 64 % 7);
  EXPECT_LE(LargestDifference(RunOne(problem), before), 2e-4);
}

TEST(ParallaxAttentionTest, NaNKeyReachesOnlyRowsThatSeeIt) {
  std::mt19937 rng(11);
  const AttentionProblem clean = RandomProblem({100, 100, 2, 1, 64}, DType::kFloat32, rng);
  const std::vector<float> expected = RunOne(clean);
  AttentionProblem poisoned = clean;
  constexpr int kPoisoned = 70;
  poisoned.k[kPoisoned * 64 + 5] = std::nanf("");
  poisoned.v[kPoisoned * 64 + 9] = std::nanf("");
  const std::vector<float> out = RunOne(poisoned);
  const size_t row_size = 2 * 64;
  for (size_t i = 0; i < kPoisoned * row_size; ++i) ASSERT_EQ(out[i], expected[i]) << i;
  for (size_t i = kPoisoned * row_size; i < out.size(); ++i) ASSERT_TRUE(std::isnan(out[i])) << i;
}

}  // namespace
}  // namespace parallax::kernels
