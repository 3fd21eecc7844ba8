// A plan: which kernel runs the linear layers of one shape for one bucket of token counts.
//
// Thread safety: values.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_PLAN_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_PLAN_H_

#include <algorithm>
#include <bit>
#include <compare>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/cublaslt.h"
#include "kernels/cuda/linear/linear_params.h"

namespace parallax::kernels::cuda {

struct PlanKey {
  MatmulShape shape;
  bool gated = false;  // a product that SiluAndMul follows, or is part of
  int bucket = 0;      // the largest number of tokens the plan is for, a power of two

  auto operator<=>(const PlanKey&) const = default;
};

// Of kTile there is one plan: it chooses its split for the very number of tokens, which matters
// more than what was the fastest for the largest of the bucket.
enum class PlanKernel : int { kCublasLt, kSkinny, kTensor, kTile };

struct Plan {
  PlanKernel kernel = PlanKernel::kCublasLt;
  cublasLtMatmulAlgo_t algorithm = {};
  TensorLinearSplit split = {};  // of kTensor

  friend bool operator==(const Plan& a, const Plan& b) {
    return a.kernel == b.kernel && std::ranges::equal(a.algorithm.data, b.algorithm.data) &&
           a.split == b.split;
  }
};

inline int BucketOf(int tokens) {
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(tokens)));
}

inline MatmulShape ShapeOf(const LinearParams& p) {
  return {.num_outputs = p.num_outputs,
          .num_inputs = p.num_inputs,
          .y_is_float = p.y_dtype == DType::kFloat32,
          .accumulates = p.epilogue == LinearEpilogue::kAccumulate,
          .has_bias = p.bias != nullptr && p.y_dtype == DType::kBFloat16};
}

inline PlanKey KeyOf(const LinearParams& p) { return {ShapeOf(p), IsGated(p), BucketOf(p.tokens)}; }

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_PLAN_H_
