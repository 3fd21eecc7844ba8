// The linear layer of up to 128 tokens against a double-precision product of the same bf16
// operands, element by element, and against itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/linear/linear_problem.h"
#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {
namespace {

constexpr LinearEpilogue kEpilogues[] = {LinearEpilogue::kStore, LinearEpilogue::kAccumulate,
                                         LinearEpilogue::kSiluAndMul};
constexpr float kOld = 3.0f;

std::string NameOf(const LinearParams& p, const TensorLinearSplit& split) {
  return std::to_string(p.tokens) + " tokens, N " + std::to_string(p.num_outputs) + ", K " +
         std::to_string(p.num_inputs) + ", epilogue " +
         std::to_string(static_cast<int>(p.epilogue)) +
         (p.y_dtype == DType::kFloat32 ? ", float32" : ", bfloat16") + ", cluster " +
         std::to_string(split.cluster) + ", " + std::to_string(split.ctas_per_sm) + " an SM" +
         (split.keep_x ? ", x kept" : "");
}

std::vector<TensorLinearSplit> SplitsOf(const LinearProblem& problem) {
  std::vector<TensorLinearSplit> splits;
  for (int cluster : {1, 2, 4, 8}) {
    for (int ctas_per_sm : {1, 2}) {
      for (bool keep_x : {false, true}) {
        const TensorLinearSplit split{cluster, ctas_per_sm, keep_x};
        if (TensorLinearTakes(problem.params, split, 0)) splits.push_back(split);
      }
    }
  }
  return splits;
}

// y as floats, [tokens + 2][stride]: the rows and columns that are not the layer's too.
template <typename Y>
std::vector<float> RunInto(LinearParams params, const TensorLinearSplit& split, float old) {
  const size_t size = static_cast<size_t>(params.tokens + 2) * params.y_stride;
  DeviceArray<Y> y(std::vector<Y>(size, static_cast<Y>(old)));
  params.y = y.data();
  TensorLinear(params, split, Stream(0, nullptr));
  std::vector<float> values;
  for (Y value : y.Read()) values.push_back(static_cast<float>(value));
  return values;
}

std::vector<float> RunLayer(const LinearProblem& problem, const TensorLinearSplit& split,
                            int64_t y_stride) {
  LinearParams params = problem.params;
  params.y_stride = y_stride;
  return params.y_dtype == DType::kFloat32 ? RunInto<float>(params, split, kOld)
                                           : RunInto<__nv_bfloat16>(params, split, kOld);
}

// Compares y of every column_step-th column; that nothing else was written, of all.
class Oracle {
 public:
  explicit Oracle(const LinearProblem& problem, int column_step = 1)
      : problem_(problem), column_step_(column_step) {
    const bool adds = problem.params.epilogue == LinearEpilogue::kAccumulate;
    for (int token = 0; token < problem.params.tokens; ++token) {
      for (int column = 0; column < problem.width(); column += column_step) {
        expected_.push_back(problem.Expected(token, column) + (adds ? kOld : 0.0));
      }
    }
  }

  void ExpectRight(const TensorLinearSplit& split, int y_padding = 0) const {
    const LinearParams& p = problem_.params;
    SCOPED_TRACE(NameOf(p, split));
    const int width = problem_.width();
    const int stride = width + y_padding;
    const std::vector<float> y = RunLayer(problem_, split, stride);
    // Sums of up to 12296 products in float32; or their rounding to bfloat16.
    const double rounding = p.y_dtype == DType::kFloat32 ? 5e-5 : 0x1.04p-8;
    int wrong = 0;
    size_t next = 0;
    for (int row = 0; row < p.tokens + 2; ++row) {
      for (int column = 0; column < stride; ++column) {
        const bool written = row < p.tokens && column < width;
        if (written && column % column_step_ != 0) continue;
        const double expected = written ? expected_[next++] : kOld;
        const double limit = written ? 1e-4 + rounding * std::abs(expected) : 0.0;
        const float value = y[static_cast<size_t>(row) * stride + column];
        if (std::abs(value - expected) <= limit) continue;
        if (++wrong > 5) continue;
        ADD_FAILURE() << "token " << row << ", column " << column << ": " << value << ", not "
                      << expected;
      }
    }
    EXPECT_EQ(wrong, 0);
  }

  void ExpectEverySplitRight(int y_padding = 0) const {
    for (const TensorLinearSplit& split : SplitsOf(problem_)) ExpectRight(split, y_padding);
  }

 private:
  const LinearProblem& problem_;
  const int column_step_;
  std::vector<double> expected_;
};

TEST(TensorLinearTest, EveryTokenCountEpilogueAndSplit) {
  for (int tokens : {1,  5,  8,  9,  16, 17, 24, 25,  31,  32,  33, 48,
                     49, 64, 65, 80, 81, 96, 97, 100, 112, 113, 128}) {
    // Neither is a multiple of its tile: 328 rows are 2.6 tiles, 584 inputs 9.1 steps.
    for (LinearEpilogue epilogue : kEpilogues) {
      const int outputs = epilogue == LinearEpilogue::kSiluAndMul ? 336 : 328;
      LinearProblem problem(tokens, outputs, 584, epilogue, tokens);
      EXPECT_GE(SplitsOf(problem).size(), 4u);
      Oracle(problem).ExpectEverySplitRight(8);
    }
    LinearProblem rounded(tokens, 328, 584, LinearEpilogue::kStore, tokens + 1);
    rounded.params.y_dtype = DType::kBFloat16;
    Oracle(rounded).ExpectEverySplitRight();
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
      const std::vector<TensorLinearSplit> splits = SplitsOf(problem);
      const auto keeps_x = [](const TensorLinearSplit& split) { return split.keep_x; };
      EXPECT_TRUE(std::any_of(splits.begin(), splits.end(), keeps_x));
      Oracle(problem, 61).ExpectEverySplitRight();
    }
  }
}

TEST(TensorLinearTest, RepeatsItsBits) {
  for (int tokens : {16, 64, 128}) {
    LinearProblem problem(tokens, 128 * 150, 1024, LinearEpilogue::kStore, 5);
    for (const TensorLinearSplit& split : SplitsOf(problem)) {
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
    for (const TensorLinearSplit& split : SplitsOf(problem)) {
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

// Layers that read what the one before wrote, each starting early: y and x of all of them must be
// what they are when every launch waits for the last.
class ChainTest : public ::testing::TestWithParam<int> {
 protected:
  static constexpr int kHidden = 1024;
  static constexpr int kMlp = 1536;
  static constexpr int kLayers = 6;

  ChainTest()
      : tokens_(GetParam()),
        gate_up_(tokens_, 2 * kMlp, kHidden, LinearEpilogue::kSiluAndMul, 6),
        down_(tokens_, kHidden, kMlp, LinearEpilogue::kStore, 9),
        sum_(tokens_, kHidden, kMlp, LinearEpilogue::kAccumulate, 12),
        hidden_(tokens_ * kHidden),
        mlp_(tokens_ * kMlp),
        residual_(tokens_ * kHidden) {
    Require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    Connect(gate_up_, hidden_.data(), kHidden, mlp_.data());
    Connect(down_, mlp_.data(), kMlp, hidden_.data());
    Connect(sum_, mlp_.data(), kMlp, residual_.data());
    down_.params.y_dtype = DType::kBFloat16;
  }
  ~ChainTest() override { cudaStreamDestroy(stream_); }

  void Reset() {
    std::mt19937 rng(1);
    const auto x = RandomBFloat16(hidden_.size(), 1.0f, rng);
    Require(cudaMemcpy(hidden_.data(), x.data(), x.size() * 2, cudaMemcpyHostToDevice));
    Require(cudaMemset(residual_.data(), 0, residual_.size() * sizeof(float)));
    Require(cudaDeviceSynchronize());
  }

  // The split is the n-th of each layer's.
  void Enqueue(size_t n, bool early, const std::function<void()>& after_each) {
    for (int layer = 0; layer < kLayers; ++layer) {
      for (LinearProblem* problem : {&gate_up_, &sum_, &down_}) {
        const std::vector<TensorLinearSplit> splits = SplitsOf(*problem);
        problem->params.programmatic_launch = early;
        TensorLinear(problem->params, splits[n % splits.size()], Stream(0, stream_));
        after_each();
      }
    }
  }

  static void Connect(LinearProblem& problem, const __nv_bfloat16* x, int inputs, void* y) {
    problem.params.x = x;
    problem.params.x_stride = inputs;
    problem.params.y = y;
    problem.params.bias = nullptr;
  }

  const int tokens_;
  LinearProblem gate_up_, down_, sum_;
  DeviceArray<__nv_bfloat16> hidden_, mlp_;
  DeviceArray<float> residual_;
  cudaStream_t stream_ = nullptr;
};

TEST_P(ChainTest, ReplaysInAGraphWithProgrammaticLaunch) {
  for (size_t n = 0; n < 8; ++n) {
    Reset();
    Enqueue(n, false, [&] { Require(cudaStreamSynchronize(stream_)); });
    const std::vector<float> residual = residual_.Read();
    const std::vector<__nv_bfloat16> hidden = hidden_.Read();
    EXPECT_FALSE(std::any_of(residual.begin(), residual.end(), [](float v) { return v != v; }));

    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Require(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
    Enqueue(n, true, [] {});
    Require(cudaStreamEndCapture(stream_, &graph));
    Require(cudaGraphInstantiate(&executable, graph, 0));
    for (int replay = 0; replay < 10; ++replay) {
      Reset();
      Require(cudaGraphLaunch(executable, stream_));
      Require(cudaStreamSynchronize(stream_));
      const std::vector<float> sums = residual_.Read();
      const std::vector<__nv_bfloat16> last = hidden_.Read();
      EXPECT_EQ(std::memcmp(sums.data(), residual.data(), sums.size() * sizeof(float)), 0) << n;
      EXPECT_EQ(std::memcmp(last.data(), hidden.data(), last.size() * 2), 0) << n;
    }
    Require(cudaGraphExecDestroy(executable));
    Require(cudaGraphDestroy(graph));
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
    const std::vector<TensorLinearSplit> splits = SplitsOf(problem);
    ASSERT_FALSE(splits.empty());
    const TensorLinearSplit split = splits[below(static_cast<int>(splits.size()))];
    Oracle(problem, 1 + outputs / 400).ExpectRight(split, 8 * below(3));
  }
}

TEST(TensorLinearTest, RefusesWhatItDoesNotTakeByName) {
  const auto refused = [](auto change, const char* name) {
    LinearProblem problem(40, 64, 64, LinearEpilogue::kStore, 2);
    problem.params.y = &problem;  // refused before it is touched
    TensorLinearSplit split;
    change(problem.params, split);
    try {
      TensorLinear(problem.params, split, Stream(0, nullptr));
      ADD_FAILURE() << name << " was not refused";
    } catch (const KernelError& error) {
      EXPECT_NE(std::strstr(error.what(), name), nullptr) << error.what();
    }
  };
  refused([](LinearParams& p, auto&) { p.tokens = 129; }, "tokens");
  refused([](LinearParams& p, auto&) { p.tokens = 0; }, "tokens");
  refused([](LinearParams& p, auto&) { p.num_outputs = 60; }, "num_outputs");
  refused([](LinearParams& p, auto&) { p.num_inputs = 60; }, "num_inputs");
  refused([](LinearParams& p, auto&) { p.x_stride = 68; }, "x_stride");
  refused([](LinearParams& p, auto&) { p.y_stride = 68; }, "y_stride");
  refused([](LinearParams& p, auto&) { p.weight += 1; }, "weight");
  refused([](LinearParams& p, auto&) { p.y_dtype = DType::kFloat16; }, "y_dtype");
  refused([](LinearParams&, TensorLinearSplit& s) { s.cluster = 3; }, "split");
  refused([](LinearParams&, TensorLinearSplit& s) { s.cluster = 2; }, "split");  // of one step
  refused([](LinearParams&, TensorLinearSplit& s) { s.ctas_per_sm = 3; }, "split");
  refused([](LinearParams&, TensorLinearSplit& s) { s.keep_x = true; }, "split");
}

}  // namespace
}  // namespace parallax::kernels::cuda
