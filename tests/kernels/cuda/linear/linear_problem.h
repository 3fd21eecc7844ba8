// A random linear layer, what it must give in double precision, and a run of it on the GPU.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_PROBLEM_H_
#define PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_PROBLEM_H_

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/row_ops/bfloat16_values.h"
#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {

using LinearFunction = std::function<void(const LinearParams&)>;

// What y holds before it is written: a value that is read shows.
inline constexpr float kPoison = NAN;

class LinearProblem {
 public:
  LinearProblem(int tokens, int num_outputs, int num_inputs, LinearEpilogue epilogue, unsigned seed)
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

  // x is what a norm left to this layer: each row of z has a factor, from squares in so many parts.
  void DeferNorm(int parts) {
    const float epsilon = 1e-3f;
    std::uniform_real_distribution<float> square(0.0f, 40.0f);
    std::vector<float> squares(params.tokens * parts);
    for (float& part : squares) part = square(rng_);
    factors_.clear();
    for (int token = 0; token < params.tokens; ++token) {
      double sum = 0.0;
      for (int i = 0; i < parts; ++i) sum += squares[token * parts + i];
      factors_.push_back(1.0 / std::sqrt(sum / params.num_inputs + epsilon));
    }
    squares_.emplace(squares);
    params.norm = {.squares = squares_->data(), .parts = parts, .epsilon = epsilon};
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

  // Runs `linear`, which enqueues on the default stream, into y filled with `old`; returns y as
  // floats.
  std::vector<float> Run(const LinearFunction& linear, float old) {
    const size_t size = static_cast<size_t>(params.tokens) * width();
    if (params.y_dtype == DType::kFloat32) {
      DeviceArray<float> y(std::vector<float>(size, old));
      params.y = y.data();
      linear(params);
      return y.Read();
    }
    DeviceArray<__nv_bfloat16> y(std::vector<__nv_bfloat16>(size, __float2bfloat16(old)));
    params.y = y.data();
    linear(params);
    std::vector<float> values;
    for (__nv_bfloat16 value : y.Read()) values.push_back(__bfloat162float(value));
    return values;
  }

  LinearParams params;

 private:
  double Dot(int token, int row) const {
    double sum = 0.0;
    for (int k = 0; k < params.num_inputs; ++k) {
      sum += static_cast<double>(__bfloat162float(x_host_[token * x_stride_ + k])) *
             __bfloat162float(weight_host_[static_cast<size_t>(row) * params.num_inputs + k]);
    }
    if (!factors_.empty()) sum *= factors_[token];
    return sum + (params.bias ? __bfloat162float(bias_host_[row]) : 0.0);
  }

  std::mt19937 rng_;
  int64_t x_stride_;
  std::vector<__nv_bfloat16> x_host_, weight_host_, bias_host_;
  DeviceArray<__nv_bfloat16> x_, weight_, bias_;
  std::vector<double> factors_;  // of the tokens; empty: no norm is deferred
  std::optional<DeviceArray<float>> squares_;
};

inline void ExpectRight(LinearProblem& problem, const LinearFunction& linear, float old) {
  const bool adds = problem.params.epilogue == LinearEpilogue::kAccumulate;
  const std::vector<float> y = problem.Run(linear, old);
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

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_PROBLEM_H_
