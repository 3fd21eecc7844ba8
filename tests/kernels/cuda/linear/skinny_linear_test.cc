// The few-token linear layer against a double-precision product of the same bf16 operands.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/row_ops/bfloat16_values.h"
#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {
namespace {

class Problem {
 public:
  Problem(int tokens, int num_outputs, int num_inputs, LinearEpilogue epilogue, unsigned seed)
      : rng_(seed),
        x_stride_(num_inputs + 8 * (seed % 3)),
        x_host_(RandomBFloat16(tokens * x_stride_, 1.0f, rng_)),
        weight_host_(RandomBFloat16(static_cast<size_t>(num_outputs) * num_inputs,
                                    1.0f / std::sqrt(static_cast<float>(num_inputs)), rng_)),
        bias_host_(RandomBFloat16(num_outputs, 0.5f, rng_)),
        x_(x_host_),
        weight_(weight_host_),
        bias_(bias_host_) {
    params.x = x_.data();
    params.x_stride = x_stride_;
    params.weight = weight_.data();
    params.bias = seed % 2 ? bias_.data() : nullptr;
    params.epilogue = epilogue;
    params.tokens = tokens;
    params.num_outputs = num_outputs;
    params.num_inputs = num_inputs;
    params.y_dtype = epilogue == LinearEpilogue::kSiluAndMul ? DType::kBFloat16 : DType::kFloat32;
  }

  int width() const {
    return params.epilogue == LinearEpilogue::kSiluAndMul ? params.num_outputs / 2
                                                          : params.num_outputs;
  }

  double Expected(int token, int column) const {
    if (params.epilogue != LinearEpilogue::kSiluAndMul) return Dot(token, column);
    const double gate = Dot(token, column);
    return gate / (1.0 + std::exp(-gate)) * Dot(token, column + width());
  }

  // Runs into y filled with `old`; returns y as floats.
  std::vector<float> Run(float old) {
    const size_t size = static_cast<size_t>(params.tokens) * width();
    if (params.y_dtype == DType::kFloat32) {
      DeviceArray<float> y(std::vector<float>(size, old));
      params.y = y.data();
      SkinnyLinear(params, Stream(0, nullptr));
      return y.Read();
    }
    DeviceArray<__nv_bfloat16> y(std::vector<__nv_bfloat16>(size, __float2bfloat16(old)));
    params.y = y.data();
    SkinnyLinear(params, Stream(0, nullptr));
    std::vector<float> values;
    for (__nv_bfloat16 value : y.Read()) values.push_back(__bfloat162float(value));
    return values;
  }

  LinearParams params;

 private:
  double Dot(int token, int row) const {
    double sum = params.bias ? __bfloat162float(bias_host_[row]) : 0.0;
    for (int k = 0; k < params.num_inputs; ++k) {
      sum += static_cast<double>(__bfloat162float(x_host_[token * x_stride_ + k])) *
             __bfloat162float(weight_host_[static_cast<size_t>(row) * params.num_inputs + k]);
    }
    return sum;
  }

  std::mt19937 rng_;
  int64_t x_stride_;
  std::vector<__nv_bfloat16> x_host_, weight_host_, bias_host_;
  DeviceArray<__nv_bfloat16> x_, weight_, bias_;
};

void ExpectRight(Problem& problem, float old) {
  const bool adds = problem.params.epilogue == LinearEpilogue::kAccumulate;
  const std::vector<float> y = problem.Run(old);
  double error = 0.0;
  double norm = 0.0;
  for (int token = 0; token < problem.params.tokens; ++token) {
    for (int column = 0; column < problem.width(); ++column) {
      const double expected = problem.Expected(token, column) + (adds ? old : 0.0);
      const double difference = y[token * problem.width() + column] - expected;
      error += difference * difference;
      norm += expected * expected;
    }
  }
  const double limit = problem.params.y_dtype == DType::kFloat32 ? 1e-5 : 4e-3;
  EXPECT_LT(std::sqrt(error / norm), limit)
      << problem.params.tokens << " tokens, N " << problem.params.num_outputs << ", K "
      << problem.params.num_inputs << ", epilogue " << static_cast<int>(problem.params.epilogue);
}

constexpr float kPoison = NAN;

TEST(SkinnyLinearTest, MatchesTheReferenceForEveryTokenCountAndRaggedShapes) {
  for (int tokens = 1; tokens <= kMaxSkinnyTokens; ++tokens) {
    std::mt19937 rng(tokens);
    const int outputs = 8 * (2 * static_cast<int>(rng() % 60) + 1);
    const int inputs = 64 * (2 * static_cast<int>(rng() % 20) + 1);
    Problem store(tokens, outputs, inputs, LinearEpilogue::kStore, tokens);
    ExpectRight(store, kPoison);
    Problem accumulate(tokens, outputs, inputs, LinearEpilogue::kAccumulate, tokens + 1);
    ExpectRight(accumulate, 3.0f);
    Problem silu(tokens, 2 * outputs, inputs, LinearEpilogue::kSiluAndMul, tokens);
    ExpectRight(silu, kPoison);
  }
}

TEST(SkinnyLinearTest, ManyTilesAndChunksAnSm) {
  for (int tokens : {3, 11}) {
    Problem tall(tokens, 8 * 1317, 128, LinearEpilogue::kStore, 4);
    ExpectRight(tall, kPoison);
    Problem wide(tokens, 24, 6144 + 64, LinearEpilogue::kStore, 5);
    ExpectRight(wide, kPoison);
  }
}

TEST(SkinnyLinearTest, ATokenIsBitForBitTheSameBesideAnyOthers) {
  Problem problem(16, 520, 1088, LinearEpilogue::kStore, 7);
  const std::vector<float> all = problem.Run(kPoison);
  for (int tokens : {16, 9, 8, 1}) {
    problem.params.tokens = tokens;
    const std::vector<float> some = problem.Run(kPoison);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << tokens;
  }
}

TEST(SkinnyLinearTest, ReplaysInAGraphWithProgrammaticLaunch) {
  Problem problem(5, 1024, 2048, LinearEpilogue::kAccumulate, 9);
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
    Problem problem(2, 64, 64, LinearEpilogue::kStore, 2);
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
