// The few-token linear layer against a double-precision product of the same bf16 operands.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/linear/linear_problem.h"
#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {
namespace {

void RunSkinny(const LinearParams& params) { SkinnyLinear(params, Stream(0, nullptr)); }

TEST(SkinnyLinearTest, MatchesTheReferenceForEveryTokenCountAndRaggedShapes) {
  for (int tokens = 1; tokens <= kMaxSkinnyTokens; ++tokens) {
    std::mt19937 rng(tokens);
    const int outputs = 8 * (2 * static_cast<int>(rng() % 60) + 1);
    const int inputs = 64 * (2 * static_cast<int>(rng() % 20) + 1);
    LinearProblem store(tokens, outputs, inputs, LinearEpilogue::kStore, tokens);
    ExpectRight(store, RunSkinny, kPoison);
    LinearProblem accumulate(tokens, outputs, inputs, LinearEpilogue::kAccumulate, tokens + 1);
    ExpectRight(accumulate, RunSkinny, 3.0f);
    LinearProblem silu(tokens, 2 * outputs, inputs, LinearEpilogue::kSiluAndMul, tokens);
    ExpectRight(silu, RunSkinny, kPoison);
  }
}

TEST(SkinnyLinearTest, ManyTilesAndChunksAnSm) {
  for (int tokens : {3, 11}) {
    LinearProblem tall(tokens, 8 * 1317, 128, LinearEpilogue::kStore, 4);
    ExpectRight(tall, RunSkinny, kPoison);
    LinearProblem wide(tokens, 24, 6144 + 64, LinearEpilogue::kStore, 5);
    ExpectRight(wide, RunSkinny, kPoison);
  }
}

// More than the ring holds: it is filled anew while the first tiles are stored.
TEST(SkinnyLinearTest, ManyTimesTheRing) {
  for (int tokens : {1, 9}) {
    for (const bool is_deferred : {false, true}) {
      LinearProblem problem(tokens, 40000, 576, LinearEpilogue::kStore, 3);
      if (is_deferred) problem.DeferNorm(100);
      ExpectRight(problem, RunSkinny, kPoison);
    }
  }
}

TEST(SkinnyLinearTest, ATokenIsBitForBitTheSameBesideAnyOthers) {
  LinearProblem problem(16, 520, 1088, LinearEpilogue::kStore, 7);
  const std::vector<float> all = problem.Run(RunSkinny, kPoison);
  for (int tokens : {16, 9, 8, 1}) {
    problem.params.tokens = tokens;
    const std::vector<float> some = problem.Run(RunSkinny, kPoison);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << tokens;
  }
}

TEST(SkinnyLinearTest, ReplaysInAGraphWithProgrammaticLaunch) {
  LinearProblem problem(5, 1024, 2048, LinearEpilogue::kAccumulate, 9);
  problem.params.programmatic_launch = true;
  DeviceArray<float> y(std::vector<float>(5 * 1024, 0.0f));
  problem.params.y = y.data();
  cudaStream_t stream;
  Require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  Require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < 4; ++i) SkinnyLinear(problem.params, Stream(0, stream));
  Require(cudaStreamEndCapture(stream, &graph));
  Require(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 2; ++i) Require(cudaGraphLaunch(executable, stream));
  const std::vector<float> sums = y.Read();
  for (int column = 0; column < 1024; column += 31) {
    EXPECT_NEAR(sums[1024 + column], 8.0 * problem.Expected(1, column), 1e-3);
  }
  Require(cudaGraphExecDestroy(executable));
  Require(cudaGraphDestroy(graph));
  Require(cudaStreamDestroy(stream));
}

TEST(SkinnyLinearTest, MultipliesByTheFactorOfANormThatWasLeftToIt) {
  for (int tokens = 1; tokens <= kMaxSkinnyTokens; ++tokens) {
    for (const LinearEpilogue epilogue :
         {LinearEpilogue::kStore, LinearEpilogue::kAccumulate, LinearEpilogue::kSiluAndMul}) {
      LinearProblem problem(tokens, 16 * (40 + 7 * tokens), 1088, epilogue, tokens);
      problem.DeferNorm(tokens % 5 == 0 ? kMaxSquareParts : 1 + 7 * tokens);
      ExpectRight(problem, RunSkinny, epilogue == LinearEpilogue::kAccumulate ? 3.0f : kPoison);
    }
  }
}

// Widths that end in a part of a tile, and those of several tiles an SM.
TEST(SkinnyLinearTest, LeavesTheNextNormWhatItNeeds) {
  for (int tokens = 1; tokens <= kMaxSkinnyTokens; ++tokens) {
    for (const int outputs : {8, 24, 1000, 1024, 2048}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << outputs << " outputs");
      LinearProblem problem(tokens, outputs, 320, LinearEpilogue::kAccumulate, tokens + outputs);
      const int parts = SkinnySquareParts(outputs, Device{DeviceType::kCuda, 0});
      ASSERT_GT(parts, 0);
      std::vector<float> weight_host(outputs);
      std::mt19937 rng(tokens);
      for (float& weight : weight_host) weight = std::normal_distribution<float>(1.0f, 0.5f)(rng);
      DeviceArray<float> weight(weight_host);
      DeviceArray<__nv_bfloat16> scaled(
          std::vector<__nv_bfloat16>(tokens * outputs, __float2bfloat16(kPoison)));
      DeviceArray<float> squares(std::vector<float>(tokens * parts, kPoison));
      problem.params.next_norm = {
          .weight = weight.data(), .scaled = scaled.data(), .squares = squares.data()};
      const std::vector<float> y = problem.Run(RunSkinny, -2.0f);
      const std::vector<__nv_bfloat16> got = scaled.Read();
      const std::vector<float> sums = squares.Read();
      for (int token = 0; token < tokens; ++token) {
        double expected = 0.0;
        for (int column = 0; column < outputs; ++column) {
          const float value = y[token * outputs + column];
          expected += static_cast<double>(value) * value;
          ASSERT_EQ(__bfloat162float(got[token * outputs + column]),
                    __bfloat162float(__float2bfloat16(value * weight_host[column])));
        }
        double sum = 0.0;
        for (int i = 0; i < parts; ++i) sum += sums[token * parts + i];
        EXPECT_NEAR(sum, expected, 1e-5 * expected);
      }
    }
  }
}

TEST(SkinnyLinearTest, RefusesWhatItDoesNotTakeByName) {
  const auto refused = [](auto change, const char* name) {
    LinearProblem problem(2, 64, 64, LinearEpilogue::kStore, 2);
    problem.params.y = &problem;  // refused before it is touched
    change(problem.params);
    try {
      SkinnyLinear(problem.params, Stream(0, nullptr));
      ADD_FAILURE() << name << " was not refused";
    } catch (const KernelError& error) {
      EXPECT_NE(std::strstr(error.what(), name), nullptr) << error.what();
    }
  };
  refused([](LinearParams& p) { p.tokens = 17; }, "tokens");
  refused([](LinearParams& p) { p.tokens = 0; }, "tokens");
  refused([](LinearParams& p) { p.num_outputs = 60; }, "num_outputs");
  refused([](LinearParams& p) { p.num_inputs = 72; }, "num_inputs");
  refused([](LinearParams& p) { p.x_stride = 63; }, "x_stride");
  refused([](LinearParams& p) { p.weight += 1; }, "weight");
  refused([](LinearParams& p) { p.y_dtype = DType::kFloat16; }, "y_dtype");
  const float value = 1.0f;
  refused([&](LinearParams& p) { p.norm = {.squares = &value, .parts = 129}; }, "norm.parts");
  refused([&](LinearParams& p) { p.next_norm.weight = &value; }, "next_norm");
  float squares = 0.0f;
  __nv_bfloat16 scaled = __float2bfloat16(0.0f);
  const auto too_wide = [&](LinearParams& p) {
    p.epilogue = LinearEpilogue::kAccumulate;
    p.num_outputs = 1 << 15;
    p.next_norm = {.weight = &value, .scaled = &scaled, .squares = &squares};
  };
  refused(too_wide, "next_norm");
}

}  // namespace
}  // namespace parallax::kernels::cuda
