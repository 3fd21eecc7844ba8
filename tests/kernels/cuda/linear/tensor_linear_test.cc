// The linear layer of up to 128 tokens against a double-precision product of the same bf16
// operands, element by element, and against itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/tensor_split.h"
#include "tests/kernels/cuda/linear/linear_chain.h"
#include "tests/kernels/cuda/linear/linear_oracle.h"
#include "tests/kernels/cuda/linear/linear_problem.h"
#include "tests/kernels/cuda/linear/linear_refusals.h"
#include "tests/kernels/cuda/linear/small_layer.h"
#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {
namespace {

constexpr LinearEpilogue kEpilogues[] = {LinearEpilogue::kStore, LinearEpilogue::kAccumulate,
                                         LinearEpilogue::kSiluAndMul};

std::string NameOf(const LinearParams& p, const TensorLinearSplit& split) {
  return NameOf(p) + ", cluster " + std::to_string(split.cluster) + ", " +
         std::to_string(split.ctas_per_sm) + " an SM" + (split.keep_x ? ", x kept" : "");
}

std::vector<TensorLinearSplit> SplitsOf(const LinearParams& params) {
  std::vector<TensorLinearSplit> splits;
  for (int cluster : {1, 2, 4, 8}) {
    for (int ctas_per_sm : {1, 2}) {
      for (bool keep_x : {false, true}) {
        const TensorLinearSplit split{cluster, ctas_per_sm, keep_x};
        if (TensorLinearTakes(params, split, 0)) splits.push_back(split);
      }
    }
  }
  return splits;
}

LinearFunction RunBy(const TensorLinearSplit& split) {
  return [=](const LinearParams& params) { TensorLinear(params, split, Stream(0, nullptr)); };
}

std::vector<float> RunLayer(const LinearProblem& problem, const TensorLinearSplit& split,
                            int64_t y_stride) {
  return RunLayer(problem, RunBy(split), y_stride);
}

class Oracle : public LinearOracle {
 public:
  explicit Oracle(const LinearProblem& problem, int column_step = 1)
      : LinearOracle(problem, column_step), problem_(problem) {}

  void ExpectRight(const TensorLinearSplit& split, int y_padding = 0) const {
    SCOPED_TRACE(NameOf(problem_.params, split));
    LinearOracle::ExpectRight(RunBy(split), y_padding);
  }

  void ExpectEverySplitRight(int y_padding = 0) const {
    for (const TensorLinearSplit& split : SplitsOf(problem_.params)) ExpectRight(split, y_padding);
  }

 private:
  const LinearProblem& problem_;
};

TEST(TensorLinearTest, EveryTokenCountEpilogueAndSplit) {
  for (int tokens : {1,  5,  8,  9,  16, 17, 24, 25,  31,  32,  33, 48,
                     49, 64, 65, 80, 81, 96, 97, 100, 112, 113, 128}) {
    // Neither is a multiple of its tile: 328 rows are 2.6 tiles, 584 inputs 9.1 steps.
    for (LinearEpilogue epilogue : kEpilogues) {
      const int outputs = epilogue == LinearEpilogue::kSiluAndMul ? 336 : 328;
      LinearProblem problem(tokens, outputs, 584, epilogue, tokens);
      EXPECT_GE(SplitsOf(problem.params).size(), 4u);
      Oracle(problem).ExpectEverySplitRight(8);
    }
    LinearProblem rounded(tokens, 328, 584, LinearEpilogue::kStore, tokens + 1);
    rounded.params.y_dtype = DType::kBFloat16;
    Oracle(rounded).ExpectEverySplitRight();
  }
}

// Each has a kernel of every padded number of tokens.
constexpr LinearOutput kOutputs[] = {{LinearEpilogue::kStore, DType::kFloat32},
                                     {LinearEpilogue::kStore, DType::kBFloat16},
                                     {LinearEpilogue::kAccumulate, DType::kFloat32},
                                     {LinearEpilogue::kSiluAndMul, DType::kBFloat16}};

void ExpectTurnsItsRings(const LinearParams& layer, const TensorLinearSplit& split) {
  // As an H200 answers.
  constexpr TensorDevice kDevice = {132, {{132, 264}, {66, 132}, {30, 60}, {15, 30}}};
  const TensorShape shape(layer);
  const TensorLayout layout = *LayOut(shape, split, kDevice);
  const int tiles = (shape.tiles + layout.clusters - 1) / layout.clusters;
  EXPECT_GT(tiles * (shape.steps / split.cluster), layout.stages) << NameOf(layer, split);
}

// By one tile.
void ExpectKernelRight(const LinearOutput& output, int padded_tokens, int cluster, unsigned seed) {
  constexpr int kSteps = 9;  // more than rings have stages where CTAs share an SM, if they may
  const TensorLinearSplit split{.cluster = cluster, .ctas_per_sm = TensorCtasPerSm(padded_tokens)};
  const LinearParams layer =
      SmallLayer(output, padded_tokens - 3, kTensorTileRows, cluster * kSteps);
  EXPECT_EQ(PaddedTokens(layer.tokens), padded_tokens);
  ExpectTurnsItsRings(layer, split);
  ExpectSmallRight<Oracle>(layer, split, seed);
}

// By clusters of which some take two tiles: an H200 has no room for one more.
void ExpectTilesInTurnRight(const LinearOutput& output, int cluster, bool keep_x, unsigned seed) {
  constexpr int kSteps = 5;
  const TensorLinearSplit split{.cluster = cluster, .keep_x = keep_x};
  const int tiles = 132 / cluster + 1;
  // Their sums are exchanged at once, or in two halves.
  const int tokens = keep_x ? 125 : 61;
  const LinearParams layer = SmallLayer(output, tokens, tiles * kTensorTileRows, cluster * kSteps);
  ExpectTurnsItsRings(layer, split);
  ExpectSmallRight<Oracle>(layer, split, seed);
}

// Small enough for racecheck: 48 launches, 40 of them of one cluster, with one tile.
TEST(TensorLinearTest, EachKernelOnce) {
  unsigned seed = 0;
  for (int i = 0; i < 4; ++i) {
    // Every number of tokens meets every size of a cluster, and so does every output.
    int way = i;
    for (int padded_tokens : ValuesOf(PaddedTokenCounts())) {
      ExpectKernelRight(kOutputs[i], padded_tokens, 1 << way++ % 4, ++seed);
    }
    for (bool keep_x : {false, true}) {
      ExpectTilesInTurnRight(kOutputs[i], 1 << (keep_x ? 3 - i : i), keep_x, ++seed);
    }
  }
}

TEST(TensorLinearTest, SmallestShapes) {
  for (int outputs : {8, 16, 24, 32, 112, 128, 136, 144}) {
    for (int inputs : {8, 56, 64, 72, 128, 520}) {
      for (LinearEpilogue epilogue : kEpilogues) {
        if (epilogue == LinearEpilogue::kSiluAndMul && outputs % 16 != 0) continue;
        LinearProblem problem(13, outputs, inputs, epilogue, outputs + inputs / 8);
        Oracle(problem).ExpectEverySplitRight();
      }
    }
  }
}

// Rings that turn around many times within a tile.
TEST(TensorLinearTest, ManyStepsATile) {
  for (int tokens : {8, 40, 128}) {
    LinearProblem problem(tokens, 256 + 8, 12288 + 8, LinearEpilogue::kStore, 2);
    Oracle(problem, 7).ExpectEverySplitRight();
  }
}

// Clusters that take many tiles in turn, so that sums are exchanged over and over.
TEST(TensorLinearTest, ManyTilesACluster) {
  for (int tokens : {12, 33, 70, 128}) {
    for (LinearEpilogue epilogue : kEpilogues) {
      LinearProblem problem(tokens, 128 * 300 + 16, 512, epilogue, 4);
      const std::vector<TensorLinearSplit> splits = SplitsOf(problem.params);
      const auto keeps_x = [](const TensorLinearSplit& split) { return split.keep_x; };
      EXPECT_TRUE(std::any_of(splits.begin(), splits.end(), keeps_x));
      Oracle(problem, 61).ExpectEverySplitRight();
    }
  }
}

TEST(TensorLinearTest, RepeatsItsBits) {
  for (int tokens : {16, 64, 128}) {
    LinearProblem problem(tokens, 128 * 150, 1024, LinearEpilogue::kStore, 5);
    for (const TensorLinearSplit& split : SplitsOf(problem.params)) {
      const std::vector<float> first = RunLayer(problem, split, problem.width());
      for (int repeat = 0; repeat < 3; ++repeat) {
        const std::vector<float> again = RunLayer(problem, split, problem.width());
        EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof(float)), 0)
            << NameOf(problem.params, split);
      }
    }
  }
}

// The bits depend on the cluster, and on nothing else of the split or the batch.
TEST(TensorLinearTest, ATokenIsBitForBitTheSameBesideAnyOthers) {
  constexpr int kMost = 128;
  LinearProblem problem(kMost, 128 * 40, 2048, LinearEpilogue::kStore, 6);
  std::vector<float> all[9];  // by cluster
  for (int tokens : {128, 112, 100, 96, 80, 65, 64, 48, 33, 32, 24, 17, 16, 9, 8, 5, 1}) {
    problem.params.tokens = tokens;
    for (const TensorLinearSplit& split : SplitsOf(problem.params)) {
      std::vector<float> some = RunLayer(problem, split, problem.width());
      some.resize(static_cast<size_t>(tokens) * problem.width());
      std::vector<float>& reference = all[split.cluster];
      if (reference.empty()) reference = some;
      EXPECT_EQ(std::memcmp(some.data(), reference.data(), some.size() * sizeof(float)), 0)
          << NameOf(problem.params, split);
    }
  }
}

// NaN behind the last token, and behind each token's inputs, must not reach a sum.
TEST(TensorLinearTest, ReadsNothingBeyondTheTokensAndTheirInputs) {
  constexpr int kRows = 130;
  for (int tokens : {1, 13, 40, 77, 127}) {
    LinearProblem problem(kRows, 264, 328, LinearEpilogue::kStore, 3);
    const int64_t stride = 328 + 24;
    const DeviceArray<__nv_bfloat16> poisoned(kRows * stride);
    Require(cudaMemcpy2D(poisoned.data(), stride * 2, problem.params.x, problem.params.x_stride * 2,
                         328 * 2, tokens, cudaMemcpyDeviceToDevice));
    problem.params.x = poisoned.data();
    problem.params.x_stride = stride;
    problem.params.tokens = tokens;
    Oracle(problem).ExpectEverySplitRight();
  }
}

class ChainTest : public ::testing::TestWithParam<int> {};

TEST_P(ChainTest, ReplaysInAGraphWithProgrammaticLaunch) {
  LinearChain chain(GetParam());
  for (size_t n = 0; n < 8; ++n) {
    SCOPED_TRACE(n);  // of each layer's splits
    chain.ExpectReplaysTheSame([n](const LinearParams& params, const Stream& stream) {
      const std::vector<TensorLinearSplit> splits = SplitsOf(params);
      TensorLinear(params, splits[n % splits.size()], stream);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Tokens, ChainTest, ::testing::Values(7, 16, 32, 64, 128));

TEST(TensorLinearTest, RandomLayers) {
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << std::endl;
  std::mt19937 rng(seed);
  const auto below = [&](int n) { return static_cast<int>(rng() % n); };
  for (int i = 0; i < 60 && !::testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", layer " + std::to_string(i));
    const LinearEpilogue epilogue = kEpilogues[below(3)];
    const int outputs = 16 * (1 + below(i % 10 == 0 ? 1500 : 60));
    LinearProblem problem(1 + below(128), outputs, 8 * (1 + below(150)), epilogue, rng());
    if (epilogue == LinearEpilogue::kStore && below(2) == 0) {
      problem.params.y_dtype = DType::kBFloat16;
    }
    problem.params.programmatic_launch = below(2) == 0;
    const std::vector<TensorLinearSplit> splits = SplitsOf(problem.params);
    ASSERT_FALSE(splits.empty());
    const TensorLinearSplit split = splits[below(static_cast<int>(splits.size()))];
    Oracle(problem, 1 + outputs / 400).ExpectRight(split, 8 * below(3));
  }
}

TEST(TensorLinearTest, RefusesWhatItDoesNotTakeByName) {
  const auto run = [](const LinearParams& params, const TensorLinearSplit& split) {
    TensorLinear(params, split, Stream(0, nullptr));
  };
  ExpectLayersRefused<TensorLinearSplit>(40, 129, run);
  const auto refused = [&](auto change) {
    ExpectRefused<TensorLinearSplit>(
        40, run, [&](LinearParams&, TensorLinearSplit& split) { change(split); }, "split");
  };
  refused([](TensorLinearSplit& s) { s.cluster = 3; });
  refused([](TensorLinearSplit& s) { s.cluster = 2; });  // of one step
  refused([](TensorLinearSplit& s) { s.ctas_per_sm = 3; });
  refused([](TensorLinearSplit& s) { s.keep_x = true; });
}

}  // namespace
}  // namespace parallax::kernels::cuda
