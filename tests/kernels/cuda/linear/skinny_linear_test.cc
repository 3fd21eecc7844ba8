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
}

}  // namespace
}  // namespace parallax::kernels::cuda
