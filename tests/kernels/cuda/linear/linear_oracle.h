// What a linear layer must write, element by element, and that it writes nothing else.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_ORACLE_H_
#define PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_ORACLE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/kernels/cuda/linear/linear_problem.h"

namespace parallax::kernels::cuda {

// What y holds before it is written.
inline constexpr float kOld = 3.0f;

inline std::string NameOf(const LinearParams& p) {
  return std::to_string(p.tokens) + " tokens, N " + std::to_string(p.num_outputs) + ", K " +
         std::to_string(p.num_inputs) + ", epilogue " +
         std::to_string(static_cast<int>(p.epilogue)) +
         (p.y_dtype == DType::kFloat32 ? ", float32" : ", bfloat16");
}

// y as floats, [tokens + 2][stride]: the rows and columns that are not the layer's too.
template <typename Y>
std::vector<float> RunInto(LinearParams params, const LinearFunction& linear, float old) {
  const size_t size = static_cast<size_t>(params.tokens + 2) * params.y_stride;
  DeviceArray<Y> y(std::vector<Y>(size, static_cast<Y>(old)));
  params.y = y.data();
  linear(params);
  std::vector<float> values;
  for (Y value : y.Read()) values.push_back(static_cast<float>(value));
  return values;
}

inline std::vector<float> RunLayer(const LinearProblem& problem, const LinearFunction& linear,
                                   int64_t y_stride) {
  LinearParams params = problem.params;
  params.y_stride = y_stride;
  return params.y_dtype == DType::kFloat32 ? RunInto<float>(params, linear, kOld)
                                           : RunInto<__nv_bfloat16>(params, linear, kOld);
}

// Compares y of every column_step-th column of every token_step-th token; that nothing else was
// written, of all.
class LinearOracle {
 public:
  explicit LinearOracle(const LinearProblem& problem, int column_step = 1, int token_step = 1)
      : problem_(problem), column_step_(column_step), token_step_(token_step) {
    const bool adds = problem.params.epilogue == LinearEpilogue::kAccumulate;
    for (int token = 0; token < problem.params.tokens; token += token_step) {
      for (int column = 0; column < problem.width(); column += column_step) {
        expected_.push_back(problem.Expected(token, column) + (adds ? kOld : 0.0));
      }
    }
  }

  // `linear` enqueues on the default stream.
  void ExpectRight(const LinearFunction& linear, int y_padding = 0) const {
    const LinearParams& p = problem_.params;
    const int width = problem_.width();
    const int stride = width + y_padding;
    const std::vector<float> y = RunLayer(problem_, linear, stride);
    // Sums of up to 12296 products in float32; or their rounding to bfloat16.
    const double rounding = p.y_dtype == DType::kFloat32 ? 5e-5 : 0x1.04p-8;
    int wrong = 0;
    size_t next = 0;
    for (int row = 0; row < p.tokens + 2; ++row) {
      for (int column = 0; column < stride; ++column) {
        const bool written = row < p.tokens && column < width;
        if (written && (column % column_step_ != 0 || row % token_step_ != 0)) continue;
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

 private:
  const LinearProblem& problem_;
  const int column_step_;
  const int token_step_;
  std::vector<double> expected_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_ORACLE_H_
