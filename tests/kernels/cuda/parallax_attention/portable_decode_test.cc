// Decode on the portable kernel, which GPUs without one of their own get, against the
// double-precision oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/kernels/cuda/parallax_attention/attention_batch.h"
#include "tests/kernels/cuda/parallax_attention/decode_harness.h"

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

// bfloat16 weights and output: softmax alone lands at 2e-3 to 4e-3.
constexpr double kTolerance = 6e-3;

double WorstError(const std::vector<AttentionProblem>& problems, DecodeBatch& batch) {
  const auto outs = batch.Run();
  double worst = 0.0;
  for (size_t i = 0; i < problems.size(); ++i) {
    worst = std::max(worst, RelativeError(outs[i], reference::Attention(problems[i])));
  }
  return worst;
}

TEST(PortableDecodeTest, RandomBatches) {
  for (uint32_t seed = 1; seed <= 16; ++seed) {
    std::mt19937 rng(seed);
    const auto pick = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(rng);
    };
    AttentionShape shape;
    shape.kv_heads = pick(1, 4);
    shape.query_heads = shape.kv_heads * pick(1, 16);
    shape.head_dim = pick(0, 1) ? 128 : 64;
    shape.window = pick(0, 1) ? pick(1, 300) : 0;
    shape.probe = pick(0, 3) > 0;
    const int most_rows = pick(0, 1) ? 8 : 1;
    std::vector<AttentionProblem> problems;
    for (int sequences = pick(1, 24); sequences > 0; --sequences) {
      const int context = pick(1, pick(1, 600));
      problems.push_back(RandomProblem(shape, std::min(context, pick(1, most_rows)), context, rng));
    }
    DecodeBatch batch(problems, rng, PortableDevice());
    EXPECT_LT(WorstError(problems, batch), kTolerance) << "seed " << seed;
  }
}

TEST(PortableDecodeTest, LongSequencesAreCutAndMerged) {
  std::mt19937 rng(1);
  for (const int head_dim : {64, 128}) {
    const AttentionShape shape = {.query_heads = 8, .kv_heads = 2, .head_dim = head_dim};
    const std::vector<AttentionProblem> problems = {RandomProblem(shape, 1, 20000, rng),
                                                    RandomProblem(shape, 1, 100, rng)};
    DecodeBatch batch(problems, rng, PortableDevice());
    EXPECT_LT(WorstError(problems, batch), kTolerance);
    EXPECT_EQ(batch.Run(), batch.Run());
  }
}

// The correction term may be many times the output; keys may lie off zero. All but the scale of r
// is the same.
TEST(PortableDecodeTest, ProbeCostsAtMostThreeTimesSoftmaxError) {
  const auto error = [](AttentionShape shape, float probe_deviation) {
    std::mt19937 rng(3);
    shape.probe_deviation = probe_deviation;
    return DecodeError({RandomProblem(shape, 1, 700, rng), RandomProblem(shape, 1, 3000, rng)},
                       PortableDevice());
  };
  for (const float key_mean : {0.0f, 3.0f}) {
    const AttentionShape shape{.query_heads = 16, .kv_heads = 4, .key_mean = key_mean};
    const double softmax = error(shape, 0.0f);
    EXPECT_LT(softmax, kTolerance);
    for (const float probe_deviation : {1.0f, 10.0f, 100.0f}) {
      EXPECT_LT(error(shape, probe_deviation), 3 * softmax)
          << "keys of mean " << key_mean << ", r scaled by " << probe_deviation;
    }
  }
}

TEST(PortableDecodeTest, CapturedFromTheDefaultModel) {
  ExpectRightOnCapturedProblems(PortableDevice(), kTolerance);
}

TEST(PortableDecodeTest, LeavesRowsOfEmptySequencesAlone) {
  std::mt19937 rng(2);
  const AttentionShape shape;
  std::vector<AttentionProblem> problems;
  for (const int context : {100, 200, 300}) {
    problems.push_back(RandomProblem(shape, 1, context, rng));
  }
  DecodeBatch batch(problems, rng, PortableDevice());
  batch.SetContexts({100, 0, 300});
  const auto outs = batch.Run();
  EXPECT_LT(RelativeError(outs[0], reference::Attention(problems[0])), kTolerance);
  EXPECT_LT(RelativeError(outs[2], reference::Attention(problems[2])), kTolerance);
  for (const float value : outs[1]) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace parallax::kernels::cuda
