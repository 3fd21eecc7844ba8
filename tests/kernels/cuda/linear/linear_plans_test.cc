// Linear layers for any number of tokens, against a double-precision product.
#include "kernels/cuda/linear_plans.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "tests/kernels/cuda/linear/linear_problem.h"

namespace parallax::kernels::cuda {
namespace {

class LinearPlansTest : public ::testing::Test {
 protected:
  static constexpr int kMaxTokens = 600;
  static constexpr int kMaxSiluOutputs = 2048;

  LinearPlansTest() : workspace_(LinearPlans::WorkspaceBytes(kMaxTokens, kMaxSiluOutputs)) {
    Require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~LinearPlansTest() override { cudaStreamDestroy(stream_); }

  std::span<std::byte> workspace() const { return {workspace_.data(), workspace_.size()}; }
  Stream stream() const { return Stream(0, stream_); }

  LinearFunction RunBy(LinearPlans& plans) {
    return [&](const LinearParams& params) { plans.Run(params, workspace(), stream()); };
  }

  const DeviceProperties device_ = ReadDeviceProperties(0);
  DeviceArray<std::byte> workspace_;
  cudaStream_t stream_ = nullptr;
};

constexpr LinearEpilogue kEpilogues[] = {LinearEpilogue::kStore, LinearEpilogue::kAccumulate,
                                         LinearEpilogue::kSiluAndMul};

TEST_F(LinearPlansTest, MatchesTheReferenceForRaggedShapesAndAnyTokenCount) {
  LinearPlans plans(device_);
  std::mt19937 rng(11);
  for (int tokens : {1, 7, 16, 17, 33, 100, 128, 257, 600}) {
    const int outputs = 16 * (1 + static_cast<int>(rng() % 24));
    const int inputs = 8 * (1 + static_cast<int>(rng() % 60));
    for (LinearEpilogue epilogue : kEpilogues) {
      // Seeds bring strided x and bias, or not.
      LinearProblem problem(tokens, outputs, inputs, epilogue, tokens);
      ExpectRight(problem, RunBy(plans), epilogue == LinearEpilogue::kAccumulate ? 3.0f : kPoison);
    }
    LinearProblem rounded(tokens, outputs, inputs, LinearEpilogue::kStore, tokens + 1);
    rounded.params.y_dtype = DType::kBFloat16;
    ExpectRight(rounded, RunBy(plans), kPoison);
  }
}

TEST_F(LinearPlansTest, OneTunedPlanServesItsWholeBucketAndARestoredOneRepeatsItsBits) {
  LinearProblem problem(300, 768, 512, LinearEpilogue::kSiluAndMul, 3);
  DeviceArray<__nv_bfloat16> y(300 * 384);
  problem.params.y = y.data();
  const std::vector<LinearParams> layers(3, problem.params);
  LinearPlans tuned(device_);
  tuned.Tune(layers, workspace(), stream());
  const std::string text = tuned.Serialize();

  LinearPlans restored(device_);
  ASSERT_TRUE(restored.Restore(text));
  EXPECT_EQ(restored.Serialize(), text);
  restored.Tune(layers, workspace(), stream());
  EXPECT_EQ(restored.Serialize(), text) << "timed again";
  for (int tokens = 1; tokens <= 300; tokens += 13) {
    problem.params.tokens = tokens;
    const std::vector<float> one = problem.Run(RunBy(tuned), kPoison);
    const std::vector<float> other = problem.Run(RunBy(restored), kPoison);
    EXPECT_EQ(std::memcmp(one.data(), other.data(), one.size() * sizeof(float)), 0) << tokens;
    ExpectRight(problem, RunBy(tuned), kPoison);
  }
}

// Compared in a chain, of layers with different numbers of tokens; one shape is tuned already.
TEST_F(LinearPlansTest, ShapesTunedTogetherAreRightAndRestoredOnesStay) {
  LinearProblem gate_up(100, 768, 256, LinearEpilogue::kSiluAndMul, 3);
  LinearProblem down(100, 256, 384, LinearEpilogue::kAccumulate, 5);
  LinearProblem head(12, 1024, 256, LinearEpilogue::kStore, 2);
  LinearProblem* const problems[] = {&gate_up, &down, &head};
  DeviceArray<float> y(100 * 1024);
  for (LinearProblem* problem : problems) problem->params.y = y.data();
  LinearPlans first(device_);
  first.Tune(std::vector<LinearParams>(2, down.params), workspace(), stream());
  const std::string text = first.Serialize();

  LinearPlans plans(device_);
  ASSERT_TRUE(plans.Restore(text));
  std::vector<LinearParams> layers;
  for (int layer = 0; layer < 3; ++layer) {
    layers.insert(layers.end(), {gate_up.params, down.params});
  }
  layers.push_back(head.params);
  plans.Tune(layers, workspace(), stream());
  for (size_t line = 0, end; (end = text.find('\n', line)) != std::string::npos; line = end + 1) {
    EXPECT_NE(plans.Serialize().find(text.substr(line, end - line)), std::string::npos);
  }
  for (LinearProblem* problem : problems) {
    const float initial = problem == &down ? 3.0f : kPoison;
    for (int tokens = problem->params.tokens; tokens >= 1; tokens /= 2) {
      problem->params.tokens = tokens;
      ExpectRight(*problem, RunBy(plans), initial);
    }
  }
}

TEST_F(LinearPlansTest, RefusesPlansThatAreDamagedOrOfAnotherMachine) {
  LinearProblem problem(40, 64, 64, LinearEpilogue::kStore, 2);
  LinearPlans plans(device_);
  problem.Run(RunBy(plans), kPoison);
  const std::string text = plans.Serialize();
  LinearPlans fresh(device_);
  EXPECT_FALSE(fresh.Restore(""));
  EXPECT_FALSE(fresh.Restore(text.substr(0, text.size() - 5)));
  EXPECT_FALSE(fresh.Restore(text.substr(0, text.size() / 2)));
  EXPECT_FALSE(fresh.Restore("another " + text));
  EXPECT_FALSE(fresh.Restore(text.substr(0, text.size() - 4) + "64 64 x\nend\n"));
  EXPECT_TRUE(fresh.Restore(text));
}

// Plans of one shape under the name of another, as a damaged file may have them.
TEST_F(LinearPlansTest, RunsAsProposedWhatItsPlanRefuses) {
  LinearProblem rounded(40, 64, 64, LinearEpilogue::kStore, 2);
  rounded.params.y_dtype = DType::kBFloat16;
  LinearProblem sums(40, 64, 64, LinearEpilogue::kAccumulate, 2);
  LinearPlans plans(device_);
  rounded.Run(RunBy(plans), kPoison);
  const std::string text = plans.Serialize();
  const size_t line = text.find('\n') + 1;
  const std::string words = " 18446744073709551615";  // 2^64 - 1: no algorithm has that number
  std::string forged = text.substr(0, line) + "64 64 1 1 0 0 64 0 1 1 0";
  for (int i = 0; i < 8; ++i) forged += words;
  forged += "\nend\n";
  LinearPlans restored(device_);
  ASSERT_TRUE(restored.Restore(forged));
  ExpectRight(sums, RunBy(restored), 3.0f);
  ExpectRight(sums, RunBy(restored), 3.0f);  // and again, as it was then found
}

TEST_F(LinearPlansTest, RunsAsProposedWhereItsPlanIsASplitThatDoesNotFit) {
  LinearProblem sums(40, 64, 64, LinearEpilogue::kAccumulate, 2);
  LinearPlans plans(device_);
  sums.Run(RunBy(plans), 0.0f);
  const std::string text = plans.Serialize();
  const std::string fingerprint = text.substr(0, text.find('\n') + 1);
  for (const char* split : {"3 1 0", "8 1 0", "1 3 0", "1 1 1", "0 0 0", "-4 1 0"}) {
    std::string forged = fingerprint + "64 64 1 1 0 0 64 2 " + split;
    for (int i = 0; i < 8; ++i) forged += " 0";
    forged += "\nend\n";
    LinearPlans restored(device_);
    ASSERT_TRUE(restored.Restore(forged)) << split;
    ExpectRight(sums, RunBy(restored), 3.0f);
    EXPECT_EQ(restored.Serialize(), forged) << "it may fit fewer tokens";
  }
}

// Without a workspace, which cuBLASLt would refuse.
TEST_F(LinearPlansTest, RunsTileLinearForAnyTokensOfABucketThatHasItsPlan) {
  if (!device_.is_hopper()) GTEST_SKIP() << "needs a Hopper GPU";
  LinearProblem sums(512, 192, 136, LinearEpilogue::kAccumulate, 2);
  LinearPlans plans(device_);
  sums.Run(RunBy(plans), 0.0f);
  const std::string text = plans.Serialize();
  std::string forged = text.substr(0, text.find('\n') + 1) + "192 136 1 1 0 0 512 3 1 1 0";
  for (int i = 0; i < 8; ++i) forged += " 0";
  forged += "\nend\n";
  LinearPlans restored(device_);
  ASSERT_TRUE(restored.Restore(forged));
  for (int tokens : {512, 480, 352, 257}) {
    sums.params.tokens = tokens;
    const LinearFunction run = [&](const LinearParams& p) { restored.Run(p, {}, stream()); };
    ExpectRight(sums, run, 3.0f);
  }
  sums.params.tokens = 256;  // another bucket
  EXPECT_THROW(sums.Run([&](const LinearParams& p) { restored.Run(p, {}, stream()); }, 3.0f),
               KernelError);
}

TEST_F(LinearPlansTest, ReplaysInAGraph) {
  LinearPlans plans(device_);
  LinearProblem problem(64, 512, 256, LinearEpilogue::kAccumulate, 4);
  DeviceArray<float> y(std::vector<float>(64 * 512, 0.0f));
  problem.params.y = y.data();
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  Require(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < 3; ++i) plans.Run(problem.params, workspace(), stream());
  Require(cudaStreamEndCapture(stream_, &graph));
  Require(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 2; ++i) Require(cudaGraphLaunch(executable, stream_));
  const std::vector<float> sums = y.Read();
  for (int column = 0; column < 512; column += 31) {
    EXPECT_NEAR(sums[5 * 512 + column], 6.0 * problem.Expected(5, column), 1e-3);
  }
  Require(cudaGraphExecDestroy(executable));
  Require(cudaGraphDestroy(graph));
}

TEST_F(LinearPlansTest, RefusesWhatItDoesNotTakeByName) {
  LinearPlans plans(device_);
  const auto refused = [&](auto change, const char* name) {
    LinearProblem problem(20, 64, 64, LinearEpilogue::kStore, 2);
    problem.params.y = workspace_.data();
    change(problem.params);
    try {
      plans.Run(problem.params, workspace(), stream());
      ADD_FAILURE() << name << " was not refused";
    } catch (const KernelError& error) {
      EXPECT_NE(std::strstr(error.what(), name), nullptr) << error.what();
    }
  };
  refused([](LinearParams& p) { p.tokens = -1; }, "tokens");
  refused([](LinearParams& p) { p.num_outputs = 60; }, "num_outputs");
  refused([](LinearParams& p) { p.num_inputs = 60; }, "num_inputs");
  refused([](LinearParams& p) { p.x_stride = 68; }, "x_stride");
  refused([](LinearParams& p) { p.y_stride = 56; }, "y_stride");
  refused([](LinearParams& p) { p.weight += 1; }, "weight");
  refused([](LinearParams& p) { p.y_dtype = DType::kFloat16; }, "y_dtype");
  LinearProblem silu(600, 4096, 64, LinearEpilogue::kSiluAndMul, 2);
  silu.params.y = workspace_.data();
  EXPECT_THROW(plans.Run(silu.params, workspace(), stream()), KernelError) << "workspace too small";
}

}  // namespace
}  // namespace parallax::kernels::cuda
