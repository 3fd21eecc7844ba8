// Random bfloat16 data and comparison with double-precision references.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_ROW_OPS_BFLOAT16_VALUES_H_
#define PARALLAX_TESTS_KERNELS_CUDA_ROW_OPS_BFLOAT16_VALUES_H_

#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace parallax::kernels::cuda {

inline std::vector<__nv_bfloat16> RandomBFloat16(size_t size, float deviation, std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<__nv_bfloat16> values(size);
  for (__nv_bfloat16& value : values) value = __float2bfloat16(normal(rng));
  return values;
}

inline std::vector<float> RandomFloat(size_t size, float deviation, std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(size);
  for (float& value : values) value = normal(rng);
  return values;
}

// One rounding to bfloat16 and a little float32 arithmetic away from `exact`.
inline bool IsRoundedFrom(double exact, __nv_bfloat16 value) {
  return std::abs(__bfloat162float(value) - exact) <= 0x1.02p-8 * std::abs(exact) + 1e-7;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_ROW_OPS_BFLOAT16_VALUES_H_
