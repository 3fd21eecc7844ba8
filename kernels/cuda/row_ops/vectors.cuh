// Eight elements of a row in registers, as float32, loaded and stored 16 bytes at a time.
#ifndef PARALLAX_KERNELS_CUDA_ROW_OPS_VECTORS_CUH_
#define PARALLAX_KERNELS_CUDA_ROW_OPS_VECTORS_CUH_

#include <cuda_bf16.h>

#include "kernels/cuda/row_ops/row_checks.h"

namespace parallax::kernels::cuda {

struct Vector {
  float v[kVector];
};

__device__ inline Vector LoadVector(const __nv_bfloat16* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
  Vector result;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // A bfloat16 is the upper half of a float32.
    result.v[2 * i] = __uint_as_float(words[i] << 16);
    result.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return result;
}

__device__ inline Vector LoadVector(const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

__device__ inline void StoreVector(const Vector& x, float* to) {
  reinterpret_cast<float4*>(to)[0] = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(x.v[4], x.v[5], x.v[6], x.v[7]);
}

__device__ inline void StoreVector(const Vector& x, __nv_bfloat16* to) {
  __nv_bfloat162 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(x.v[2 * i], x.v[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(pairs);
}

__device__ inline float SumOfSquares(const Vector& x) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kVector; ++i) sum = fmaf(x.v[i], x.v[i], sum);
  return sum;
}

// The sum over each aligned group of `Lanes` lanes, in all of them.
template <int Lanes>
__device__ inline float SumOverLanes(float x) {
#pragma unroll
  for (int offset = Lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_ROW_OPS_VECTORS_CUH_
