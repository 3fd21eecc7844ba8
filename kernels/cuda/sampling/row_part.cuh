// A block's part of a row of logits, and the order in which its elements rank.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_

#include <cfloat>
#include <climits>
#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"

namespace parallax::kernels::cuda {

// Larger floats have larger images; the two zeros have one.
__device__ inline uint32_t OrderedBits(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float FloatOfOrderedBits(uint32_t ordered) {
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// Smaller keys are more likely; of equal logits the lower id is.
__device__ inline uint64_t LikelihoodKey(float logit, int id) {
  return static_cast<uint64_t>(~OrderedBits(logit)) << 32 | static_cast<uint32_t>(id);
}
__device__ inline float LogitOfKey(uint64_t key) {
  return FloatOfOrderedBits(~static_cast<uint32_t>(key >> 32));
}
__device__ inline int IdOfKey(uint64_t key) { return static_cast<int>(key & 0xffffffffu); }

// The elements at least as likely as one of them.
struct Cut {
  float logit = -FLT_MAX;
  int id = INT_MAX;

  __device__ bool Keeps(float l, int i) const { return l > logit || (l == logit && i <= id); }
};

// Elements begin .. begin + size - 1 of a row, filled up with -inf to a multiple of 4.
struct RowPart {
  float* logits;
  int begin;
  int size;

  __device__ bool Owns(int id) const { return id >= begin && id < begin + size; }

  // visit(logits of four successive elements, id of the first), each by one thread of the block,
  // the same one every time.
  template <typename Visit>
  __device__ void ForEachFour(const Visit& visit) const {
    for (int i = 4 * threadIdx.x; i < size; i += 4 * kSampleThreads) {
      const float4 four = *reinterpret_cast<const float4*>(logits + i);
      const float values[4] = {four.x, four.y, four.z, four.w};
      visit(values, begin + i);
    }
  }

  template <typename Visit>
  __device__ void ForEach(const Visit& visit) const {
    ForEachFour([&](const float(&values)[4], int id) {
#pragma unroll
      for (int j = 0; j < 4; ++j) visit(values[j], id + j);
    });
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_
