// A block's part of a row of logits in global memory, and the order in which elements rank.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_

#include <math_constants.h>

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

// Elements begin .. begin + size - 1 of a row, and `beyond` more that follow them but are outside
// the tokenizer. `begin` is a multiple of 4.
struct RowPart {
  const float* row;  // 16-byte aligned
  int begin;
  int size;
  int beyond;

  __device__ bool Owns(int id) const { return id >= begin && id < begin + size; }

  // The elements of [from, to) among these. REQUIRES: `from` is a multiple of 4.
  __device__ RowPart Within(int from, int to) const {
    const int first = max(begin, from);
    return {row, first, max(0, min(begin + size, to) - first), 0};
  }

  // visit(logits of four successive elements, id of the first), each by one thread of the block,
  // the same one every time. What lies beyond the end is -inf.
  template <typename Visit>
  __device__ void ForEachFour(const Visit& visit) const {
    constexpr int kUnroll = 4;  // loads in flight
    constexpr int kStep = 4 * kSampleThreads;
    const float* const from = row + begin;
    const int whole = size & ~3;
    const auto load = [&](int i) { return *reinterpret_cast<const float4*>(from + i); };
    const auto show = [&](const float4& four, int i) {
      const float values[4] = {four.x, four.y, four.z, four.w};
      visit(values, begin + i);
    };
    int i = 4 * threadIdx.x;
    for (; i + (kUnroll - 1) * kStep < whole; i += kUnroll * kStep) {
      float4 fours[kUnroll];
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) fours[j] = load(i + j * kStep);
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) show(fours[j], i + j * kStep);
    }
    for (; i < whole; i += kStep) show(load(i), i);
    if (i == whole && whole < size) {
      const auto value = [&](int j) { return j < size ? from[j] : -CUDART_INF_F; };
      show(make_float4(value(i), value(i + 1), value(i + 2), value(i + 3)), i);
    }
  }

  template <typename Visit>
  __device__ void ForEach(const Visit& visit) const {
    ForEachFour([&](const float(&values)[4], int id) {
#pragma unroll
      for (int j = 0; j < 4; ++j) visit(values[j], id + j);
    });
  }

  template <typename Visit>
  __device__ void ForEachBeyond(const Visit& visit) const {
    const int end = begin + size + beyond;
    for (int i = begin + size + threadIdx.x; i < end; i += kSampleThreads) visit(row[i]);
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_
