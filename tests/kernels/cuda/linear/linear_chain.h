// Layers that read what the one before wrote, each starting early: y and x of all of them must be
// what they are when every launch waits for the last.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_CHAIN_H_
#define PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_CHAIN_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "tests/kernels/cuda/linear/linear_problem.h"

namespace parallax::kernels::cuda {

class LinearChain {
 public:
  using Launch = std::function<void(const LinearParams&, const Stream&)>;

  explicit LinearChain(int tokens)
      : gate_up_(tokens, 2 * kMlp, kHidden, LinearEpilogue::kSiluAndMul, 6),
        down_(tokens, kHidden, kMlp, LinearEpilogue::kStore, 9),
        sum_(tokens, kHidden, kMlp, LinearEpilogue::kAccumulate, 12),
        hidden_(tokens * kHidden),
        mlp_(tokens * kMlp),
        residual_(tokens * kHidden) {
    Require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    Connect(gate_up_, hidden_.data(), kHidden, mlp_.data());
    Connect(down_, mlp_.data(), kMlp, hidden_.data());
    Connect(sum_, mlp_.data(), kMlp, residual_.data());
    down_.params.y_dtype = DType::kBFloat16;
    std::mt19937 rng(1);
    x_ = RandomBFloat16(hidden_.size(), 1.0f, rng);
  }
  ~LinearChain() { cudaStreamDestroy(stream_); }
  LinearChain(const LinearChain&) = delete;
  LinearChain& operator=(const LinearChain&) = delete;

  // Every launch behind the last, and then replays of a graph of early ones.
  void ExpectReplaysTheSame(const Launch& launch) {
    Reset();
    Enqueue(launch, false);
    const std::vector<float> residual = residual_.Read();
    const std::vector<__nv_bfloat16> hidden = hidden_.Read();
    EXPECT_FALSE(std::any_of(residual.begin(), residual.end(), [](float v) { return v != v; }));

    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Require(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
    Enqueue(launch, true);
    Require(cudaStreamEndCapture(stream_, &graph));
    Require(cudaGraphInstantiate(&executable, graph, 0));
    for (int replay = 0; replay < 10; ++replay) {
      Reset();
      Require(cudaGraphLaunch(executable, stream_));
      Require(cudaStreamSynchronize(stream_));
      const std::vector<float> sums = residual_.Read();
      const std::vector<__nv_bfloat16> last = hidden_.Read();
      EXPECT_EQ(std::memcmp(sums.data(), residual.data(), sums.size() * sizeof(float)), 0);
      EXPECT_EQ(std::memcmp(last.data(), hidden.data(), last.size() * 2), 0);
    }
    Require(cudaGraphExecDestroy(executable));
    Require(cudaGraphDestroy(graph));
  }

 private:
  static constexpr int kHidden = 1024;
  static constexpr int kMlp = 1536;
  static constexpr int kLayers = 6;

  static void Connect(LinearProblem& problem, const __nv_bfloat16* x, int inputs, void* y) {
    problem.params.x = x;
    problem.params.x_stride = inputs;
    problem.params.y = y;
    problem.params.bias = nullptr;
  }

  void Reset() {
    Require(cudaMemcpy(hidden_.data(), x_.data(), x_.size() * 2, cudaMemcpyHostToDevice));
    Require(cudaMemset(residual_.data(), 0, residual_.size() * sizeof(float)));
    Require(cudaDeviceSynchronize());
  }

  void Enqueue(const Launch& launch, bool early) {
    for (int layer = 0; layer < kLayers; ++layer) {
      for (LinearProblem* problem : {&gate_up_, &sum_, &down_}) {
        problem->params.programmatic_launch = early;
        launch(problem->params, Stream(0, stream_));
        if (!early) Require(cudaStreamSynchronize(stream_));
      }
    }
  }

  LinearProblem gate_up_, down_, sum_;
  std::vector<__nv_bfloat16> x_;
  DeviceArray<__nv_bfloat16> hidden_, mlp_;
  DeviceArray<float> residual_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_CHAIN_H_
