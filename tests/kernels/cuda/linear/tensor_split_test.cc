// How TensorLinear lays layers out: that what it says fits does, and that each step of each tile
// is one CTA's. Needs no GPU.
#include "kernels/cuda/linear/tensor_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

namespace parallax::kernels::cuda {
namespace {

// As an H200 answers.
constexpr TensorDevice kDevice = {132, {{132, 264}, {66, 132}, {30, 60}, {15, 30}}};

TensorShape ShapeOf(int tokens, int outputs, int inputs) {
  LinearParams params;
  params.tokens = tokens;
  params.num_outputs = outputs;
  params.num_inputs = inputs;
  return TensorShape(params);
}

void ExpectFits(const TensorShape& shape, const TensorLinearSplit& split) {
  const std::optional<TensorLayout> layout = LayOut(shape, split, kDevice);
  ASSERT_TRUE(layout.has_value());
  EXPECT_LE(layout->bytes, split.ctas_per_sm == 1 ? 227 * 1024 : 113 * 1024);
  EXPECT_LE(layout->clusters, shape.tiles);
  EXPECT_LE(split.cluster, shape.steps);
  const int tiles = (shape.tiles + layout->clusters - 1) / layout->clusters;
  const int steps = (shape.steps + split.cluster - 1) / split.cluster;
  EXPECT_GE(layout->stages, 1);
  EXPECT_LE(layout->stages, std::min(tiles * steps, kTensorMaxStages));
  // Parts lie one behind the other, those that tensor copies write at multiples of 1024 bytes.
  const int slots = split.keep_x ? steps : layout->stages;
  EXPECT_EQ(layout->x_offset, layout->stages * kTensorWeightBytes);
  EXPECT_EQ(layout->x_offset % 1024, 0);
  EXPECT_EQ(shape.tokens * kTensorStepBytes % 1024, 0);
  EXPECT_EQ(layout->sums_offset, layout->x_offset + slots * shape.tokens * kTensorStepBytes);
  const int sums = split.cluster == 1 ? 0 : 4 * kTensorTileRows * ExchangeTokens(shape.tokens);
  EXPECT_EQ(layout->barriers_offset, layout->sums_offset + sums);
  EXPECT_LE(layout->barriers_offset + 8 * (2 * layout->stages + 2), layout->bytes);
}

TEST(TensorSplitTest, PadsTokens) {
  for (int tokens = 1; tokens <= kMaxTensorTokens; ++tokens) {
    const int padded = PaddedTokens(tokens);
    EXPECT_GE(padded, tokens);
    EXPECT_TRUE(padded == 8 || padded < 2 * tokens);
  }
}

// Of layers whose splits were all timed on an H200, those within 3 % of the best or the best of
// their kind.
TEST(TensorSplitTest, RanksWhatWasFastest) {
  struct Timed {
    int tokens, outputs, inputs;
    TensorLinearSplit best;
  };
  const Timed timed[] = {
      {16, 1024, 3072, {.cluster = 8}},  {16, 2048, 2048, {.cluster = 8, .ctas_per_sm = 2}},
      {16, 12288, 2048, {.cluster = 2}}, {16, 10240, 4096, {.cluster = 4}},
      {16, 4096, 12288, {.cluster = 2}}, {16, 151936, 4096, {.cluster = 2}},
      {64, 6144, 1024, {.cluster = 1}},  {64, 2048, 6144, {.cluster = 4}},
      {64, 12288, 2048, {.cluster = 1}}, {64, 10240, 4096, {.cluster = 4}},
      {64, 4096, 4096, {.cluster = 8}},  {64, 24576, 4096, {.cluster = 8}},
      {64, 4096, 12288, {.cluster = 2}}, {64, 151936, 1024, {.cluster = 1}},
  };
  for (const Timed& layer : timed) {
    const auto splits = RankedSplits(ShapeOf(layer.tokens, layer.outputs, layer.inputs), kDevice);
    EXPECT_EQ(std::count(splits.begin(), splits.end(), layer.best), 1)
        << layer.tokens << " tokens, " << layer.outputs << " x " << layer.inputs;
    EXPECT_LE(splits.size(), layer.tokens > 48 ? 5u : 12u);
  }
}

TEST(TensorSplitTest, WhatIsRankedFits) {
  std::mt19937 rng(1);
  for (int i = 0; i < 3000; ++i) {
    const TensorShape shape = ShapeOf(1 + rng() % 128, 8 * (1 + rng() % (i % 2 ? 100 : 20000)),
                                      8 * (1 + rng() % (i % 3 ? 600 : 2000)));
    const std::vector<TensorLinearSplit> splits = RankedSplits(shape, kDevice);
    ASSERT_FALSE(splits.empty());
    double time = 0.0;
    for (const TensorLinearSplit& split : splits) {
      ExpectFits(shape, split);
      EXPECT_GE(EstimatedNanoseconds(shape, split, kDevice), time);
      time = EstimatedNanoseconds(shape, split, kDevice);
      EXPECT_EQ(std::count(splits.begin(), splits.end(), split), 1);
    }
  }
}

TEST(TensorSplitTest, RefusesMalformedSplits) {
  const TensorShape shape = ShapeOf(16, 1024, 1024);
  for (int cluster : {INT32_MIN, -8, -1, 0, 3, 5, 16, 1 << 30}) {
    EXPECT_FALSE(LayOut(shape, {.cluster = cluster}, kDevice)) << cluster;
  }
  EXPECT_FALSE(LayOut(shape, {.ctas_per_sm = 0}, kDevice));
  EXPECT_FALSE(LayOut(shape, {.ctas_per_sm = 3}, kDevice));
  EXPECT_FALSE(LayOut(shape, {.keep_x = true}, kDevice)) << "one tile each";
  EXPECT_FALSE(LayOut(ShapeOf(16, 1024, 64), {.cluster = 2}, kDevice)) << "one step";
}

// The kernel's own arithmetic of who does what (TensorPart).
TEST(TensorSplitTest, EveryStepOfEveryTileIsOneCtas) {
  std::mt19937 rng(2);
  for (int i = 0; i < 300; ++i) {
    const TensorShape shape = ShapeOf(16, 8 * (1 + rng() % 6000), 8 * (1 + rng() % 600));
    for (const TensorLinearSplit& split : RankedSplits(shape, kDevice)) {
      const int clusters = LayOut(shape, split, kDevice)->clusters;
      const int most_steps = (shape.steps + split.cluster - 1) / split.cluster;
      std::vector<int> taken(shape.tiles * shape.steps, 0);
      for (int cluster = 0; cluster < clusters; ++cluster) {
        const int tiles = shape.tiles / clusters + (cluster < shape.tiles % clusters ? 1 : 0);
        ASSERT_GE(tiles, 1);
        for (int rank = 0; rank < split.cluster; ++rank) {
          const int first = shape.steps * rank / split.cluster;
          const int end = shape.steps * (rank + 1) / split.cluster;
          ASSERT_GE(end - first, 1);
          ASSERT_LE(end - first, most_steps);
          for (int tile = 0; tile < tiles; ++tile) {
            for (int step = first; step < end; ++step) {
              ++taken[(cluster + tile * clusters) * shape.steps + step];
            }
          }
        }
      }
      EXPECT_EQ(std::count(taken.begin(), taken.end(), 1), shape.tiles * shape.steps);
    }
  }
}

}  // namespace
}  // namespace parallax::kernels::cuda
