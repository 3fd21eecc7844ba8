// That a linear layer's kernel refuses by name what it does not take: TensorLinear's and
// TileLinear's.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_REFUSALS_H_
#define PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_REFUSALS_H_

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/linear/linear_problem.h"

namespace parallax::kernels::cuda {

// `run` is called with what `change` makes of a good layer of `tokens` tokens, 64 outputs and
// inputs and of the default split.
template <typename Split, typename Run, typename Change>
void ExpectRefused(int tokens, const Run& run, const Change& change, const char* name) {
  LinearProblem problem(tokens, 64, 64, LinearEpilogue::kStore, 2);
  problem.params.y = &problem;  // refused before it is touched
  Split split;
  change(problem.params, split);
  try {
    run(problem.params, split);
    ADD_FAILURE() << name << " was not refused";
  } catch (const KernelError& error) {
    EXPECT_NE(std::strstr(error.what(), name), nullptr) << error.what();
  }
}

// All that does not depend on the split.
template <typename Split, typename Run>
void ExpectLayersRefused(int tokens, int too_many_tokens, const Run& run) {
  const auto refused = [&](const auto& change, const char* name) {
    ExpectRefused<Split>(
        tokens, run, [&](LinearParams& p, Split&) { change(p); }, name);
  };
  refused([&](LinearParams& p) { p.tokens = too_many_tokens; }, "tokens");
  refused([](LinearParams& p) { p.tokens = 0; }, "tokens");
  refused([](LinearParams& p) { p.num_outputs = 60; }, "num_outputs");
  refused([](LinearParams& p) { p.num_inputs = 60; }, "num_inputs");
  refused([](LinearParams& p) { p.x_stride = 68; }, "x_stride");
  refused([](LinearParams& p) { p.y_stride = 68; }, "y_stride");
  refused([](LinearParams& p) { p.weight += 1; }, "weight");
  refused([](LinearParams& p) { p.y_dtype = DType::kFloat16; }, "y_dtype");
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_LINEAR_LINEAR_REFUSALS_H_
