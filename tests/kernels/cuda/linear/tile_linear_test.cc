// The linear layer of up to 1024 tokens against a double-precision product of the same bf16
// operands, element by element, and against itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/tile_split.h"
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

std::string NameOf(const LinearParams& p, const TileLinearSplit& split) {
  return NameOf(p) + ", token tiles " + std::to_string(split.token_tiles) + ", input parts " +
         std::to_string(split.input_parts) + ", sharers " + std::to_string(split.sharers);
}

LinearFunction RunBy(const TileLinearSplit& split) {
  return [=](const LinearParams& params) { TileLinear(params, split, Stream(0, nullptr)); };
}

std::vector<TileLinearSplit> SplitsOf(const LinearParams& params) {
  return TileLinearSplits(params, 0);
}

class Oracle : public LinearOracle {
 public:
  explicit Oracle(const LinearProblem& problem, int column_step = 1, int token_step = 1)
      : LinearOracle(problem, column_step, token_step), problem_(problem) {}

  void ExpectRight(const TileLinearSplit& split, int y_padding = 0) const {
    SCOPED_TRACE(NameOf(problem_.params, split));
    LinearOracle::ExpectRight(RunBy(split), y_padding);
  }

  void ExpectEverySplitRight(int y_padding = 0) const {
    const std::vector<TileLinearSplit> splits = SplitsOf(problem_.params);
    EXPECT_FALSE(splits.empty()) << NameOf(problem_.params);
    for (const TileLinearSplit& split : splits) {
      if (::testing::Test::HasFailure()) return;  // the first is enough to read
      ExpectRight(split, y_padding);
    }
  }

 private:
  const LinearProblem& problem_;
};

bool Has(const std::vector<TileLinearSplit>& splits, const auto& condition) {
  return std::any_of(splits.begin(), splits.end(), condition);
}

constexpr int kTokenCounts[] = {1,   64,  129, 136, 250, 256,  257, 352,
                                416, 440, 480, 512, 544, 1000, 1024};

TEST(TileLinearTest, EveryTokenCountEpilogueAndSplit) {
  for (int tokens : kTokenCounts) {
    // Neither is a multiple of its tile: 328 rows are 2.6 or 1.7 tiles, 584 inputs 9.1 steps.
    const int token_step = 1 + tokens / 200;
    for (LinearEpilogue epilogue : kEpilogues) {
      const int outputs = epilogue == LinearEpilogue::kSiluAndMul ? 336 : 328;
      LinearProblem problem(tokens, outputs, 584, epilogue, tokens);
      Oracle(problem, 1, token_step).ExpectEverySplitRight(8);
    }
    LinearProblem rounded(tokens, 328, 584, LinearEpilogue::kStore, tokens + 1);
    rounded.params.y_dtype = DType::kBFloat16;
    Oracle(rounded, 1, token_step).ExpectEverySplitRight();
  }
}

// As an H200 answers for 1, 2, 4 and 8.
constexpr TileDevice kDevice = {{0, 132, 66, 42, 30, 24, 20, 17, 15}};

// Each is a kernel of its own.
TEST(TileLinearTest, TestsEveryWidth) {
  std::set<int> widths;
  for (int tokens : kTokenCounts) {
    LinearParams params;
    params.tokens = tokens;
    params.num_outputs = 328;
    params.num_inputs = 584;
    const TileShape shape(params);
    for (const TileLinearSplit& split : RankedSplits(shape, kDevice)) {
      widths.insert(LayOut(shape, split, kDevice)->width);
    }
  }
  EXPECT_EQ(widths.size(), TileWidths::size());
}

TEST(TileLinearTest, TestsEveryWayToDivideALayer) {
  LinearProblem problem(480, 328, 584, LinearEpilogue::kStore, 2);
  const std::vector<TileLinearSplit> splits = SplitsOf(problem.params);
  for (int input_parts : {1, 2, 3, 4}) {
    for (int sharers : {1, 2}) {
      EXPECT_TRUE(Has(splits,
                      [&](const TileLinearSplit& split) {
                        return split.input_parts == input_parts && split.sharers == sharers;
                      }))
          << input_parts << ' ' << sharers;
    }
  }
}

// Each has a kernel of every width. What is stored as float32 has the kernels that add.
constexpr LinearOutput kOutputs[] = {{LinearEpilogue::kStore, DType::kBFloat16},
                                     {LinearEpilogue::kAccumulate, DType::kFloat32},
                                     {LinearEpilogue::kSiluAndMul, DType::kBFloat16}};

constexpr int RowsOfATile(const LinearOutput& output) {
  return kTileWarpgroupRows * TileWarpgroups(output.y_dtype == DType::kFloat32);
}

void ExpectTurnsItsRings(const LinearParams& layer, const TileLinearSplit& split) {
  const TileShape shape(layer);
  const TileLayout layout = *LayOut(shape, split, kDevice);
  const int tiles = (layout.groups + layout.clusters - 1) / layout.clusters;
  EXPECT_GT(tiles * (shape.steps / split.input_parts), layout.stages) << NameOf(layer, split);
}

// By one tile for each sharer. Wide products leave no room for the sums of many parts: there are
// fewer then. Returns the split.
TileLinearSplit ExpectKernelRight(const LinearOutput& output, int width, int parts, int sharers,
                                  unsigned seed) {
  constexpr int kSteps = kTileMaxStages + 1;  // of a part
  TileLinearSplit split{.token_tiles = sharers, .input_parts = parts, .sharers = sharers};
  const auto layer = [&] {
    return SmallLayer(output, sharers * width - 5, RowsOfATile(output), split.input_parts * kSteps);
  };
  const auto layout = [&] { return LayOut(TileShape(layer()), split, kDevice); };
  while (split.input_parts > 1 && !layout()) --split.input_parts;
  EXPECT_EQ(layout()->width, width);
  ExpectTurnsItsRings(layer(), split);
  ExpectSmallRight<Oracle>(layer(), split, seed);
  return split;
}

// Small enough for racecheck: 15 launches of up to 8 CTAs, with a tile each. An output's kernels
// divide their layers in every way.
class TileKernels : public testing::TestWithParam<LinearOutput> {};

TEST_P(TileKernels, EachKernelOnce) {
  unsigned launches = 0;
  std::set<TileLinearSplit> splits;
  for (int width : ValuesOf(TileWidths())) {
    const int way = launches++ % (kTileMaxInputParts * kTileMaxSharers);
    splits.insert(ExpectKernelRight(GetParam(), width, 1 + way % kTileMaxInputParts,
                                    1 + way / kTileMaxInputParts, launches));
  }
  EXPECT_EQ(splits.size(), kTileMaxInputParts * kTileMaxSharers);
}

// Likewise, where some CTAs take two tiles: of 144, for which an H200 is not enough.
TEST_P(TileKernels, EachKernelOnceOverTilesInTurn) {
  for (int sharers : {1, 2}) {
    const TileLinearSplit split{.token_tiles = 16, .sharers = sharers};
    const LinearParams layer = SmallLayer(GetParam(), 1019, 9 * RowsOfATile(GetParam()), 5);
    ExpectTurnsItsRings(layer, split);
    ExpectSmallRight<Oracle>(layer, split, sharers);
  }
}

std::string OutputName(const testing::TestParamInfo<LinearOutput>& output) {
  constexpr const char* kNames[] = {"Store", "Accumulate", "SiluAndMul"};
  return kNames[static_cast<int>(output.param.epilogue)];
}

INSTANTIATE_TEST_SUITE_P(Outputs, TileKernels, testing::ValuesIn(kOutputs), OutputName);

TEST(TileLinearTest, SmallestShapes) {
  for (int outputs : {8, 16, 24, 112, 128, 136, 192, 208, 392}) {
    for (int inputs : {8, 56, 64, 72, 136, 520}) {
      for (LinearEpilogue epilogue : kEpilogues) {
        if (epilogue == LinearEpilogue::kSiluAndMul && outputs % 16 != 0) continue;
        LinearProblem problem(131, outputs, inputs, epilogue, outputs + inputs / 8);
        Oracle(problem, 1, 2).ExpectEverySplitRight();
      }
    }
  }
}

// Rings that turn around many times within a tile.
TEST(TileLinearTest, ManyStepsATile) {
  for (int tokens : {250, 530}) {
    LinearProblem problem(tokens, 256 + 8, 12288 + 8, LinearEpilogue::kStore, 2);
    Oracle(problem, 13, 11).ExpectEverySplitRight();
  }
}

// CTAs that take many tiles in turn.
TEST(TileLinearTest, ManyTilesACta) {
  struct Size {
    int tokens, outputs;
  };
  for (const Size& size : {Size{140, 192 * 150 + 16}, Size{520, 192 * 50 + 16}}) {
    for (LinearEpilogue epilogue : kEpilogues) {
      for (int inputs : {40, 448}) {
        LinearProblem problem(size.tokens, size.outputs, inputs, epilogue, 4);
        EXPECT_TRUE(Has(SplitsOf(problem.params),
                        [](const TileLinearSplit& split) { return split.sharers == 2; }));
        Oracle(problem, 61, 7).ExpectEverySplitRight();
      }
    }
  }
}

TEST(TileLinearTest, RepeatsItsBits) {
  for (int outputs : {2048, 6144}) {
    for (LinearEpilogue epilogue : {LinearEpilogue::kStore, LinearEpilogue::kAccumulate}) {
      LinearProblem problem(480, outputs, 1024, epilogue, 5);
      for (const TileLinearSplit& split : SplitsOf(problem.params)) {
        const std::vector<float> first = RunLayer(problem, RunBy(split), problem.width());
        for (int repeat = 0; repeat < 2; ++repeat) {
          const std::vector<float> again = RunLayer(problem, RunBy(split), problem.width());
          EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof(float)), 0)
              << NameOf(problem.params, split);
        }
      }
    }
  }
}

// The bits depend on the parts of the inputs, and on nothing else of the split or the batch.
TEST(TileLinearTest, ATokenIsBitForBitTheSameBesideAnyOthers) {
  LinearProblem problem(1024, 2048, 2048, LinearEpilogue::kStore, 6);
  std::vector<float> all[5];  // by parts
  for (int tokens : {1024, 544, 512, 480, 416, 352, 257, 200, 129}) {
    problem.params.tokens = tokens;
    for (const TileLinearSplit& split : SplitsOf(problem.params)) {
      std::vector<float> some = RunLayer(problem, RunBy(split), problem.width());
      some.resize(static_cast<size_t>(tokens) * problem.width());
      std::vector<float>& reference = all[split.input_parts];
      if (reference.empty()) reference = some;
      const size_t both = std::min(some.size(), reference.size());
      EXPECT_EQ(std::memcmp(some.data(), reference.data(), both * sizeof(float)), 0)
          << NameOf(problem.params, split);
    }
  }
}

// NaN behind the last token, and behind each token's inputs, must not reach a sum.
TEST(TileLinearTest, ReadsNothingBeyondTheTokensAndTheirInputs) {
  constexpr int kRows = 520;
  for (int tokens : {129, 253, 300, 517}) {
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
  for (size_t n : {0, 1, 2, 3, 5, 8, 13, 21, 34}) {
    SCOPED_TRACE(n);  // of each layer's splits
    chain.ExpectReplaysTheSame([n](const LinearParams& params, const Stream& stream) {
      const std::vector<TileLinearSplit> splits = SplitsOf(params);
      TileLinear(params, splits[n % splits.size()], stream);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Tokens, ChainTest, ::testing::Values(129, 352, 480, 544, 1000));

TEST(TileLinearTest, RandomLayers) {
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << std::endl;
  std::mt19937 rng(seed);
  const auto below = [&](int n) { return static_cast<int>(rng() % n); };
  for (int i = 0; i < 80 && !::testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", layer " + std::to_string(i));
    const LinearEpilogue epilogue = kEpilogues[below(3)];
    const int outputs = 16 * (1 + below(i % 10 == 0 ? 1500 : 60));
    const int tokens = 129 + below(i % 4 == 0 ? 896 : 450);
    LinearProblem problem(tokens, outputs, 8 * (1 + below(150)), epilogue, rng());
    if (epilogue == LinearEpilogue::kStore && below(2) == 0) {
      problem.params.y_dtype = DType::kBFloat16;
    }
    problem.params.programmatic_launch = below(2) == 0;
    const std::vector<TileLinearSplit> splits = SplitsOf(problem.params);
    ASSERT_FALSE(splits.empty());
    const Oracle oracle(problem, 1 + outputs / 100, 3);
    for (int run = 0; run < 3; ++run) {
      oracle.ExpectRight(splits[below(static_cast<int>(splits.size()))], 8 * below(3));
    }
  }
}

TEST(TileLinearTest, RefusesWhatItDoesNotTakeByName) {
  const auto run = [](const LinearParams& params, const TileLinearSplit& split) {
    TileLinear(params, split, Stream(0, nullptr));
  };
  ExpectLayersRefused<TileLinearSplit>(140, 1025, run);
  const auto refused = [&](auto change) {
    ExpectRefused<TileLinearSplit>(
        140, run, [&](LinearParams&, TileLinearSplit& split) { change(split); }, "split");
  };
  refused([](TileLinearSplit& s) { s.token_tiles = 0; });
  refused([](TileLinearSplit& s) { s.sharers = 2; });      // of one tile
  refused([](TileLinearSplit& s) { s.input_parts = 2; });  // of one step
}

}  // namespace
}  // namespace parallax::kernels::cuda
