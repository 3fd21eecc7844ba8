// A block's part of a row of logits in global memory, and the order in which elements rank.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_

#include <math_constants.h>

#include <cfloat>
#include <climits>
#include <cstdint>

#include "kernels/cuda/sampling/block_group.cuh"
#include "kernels/cuda/sampling/sample_args.h"

namespace parallax::kernels::cuda {

// Larger floats have larger images; the two zeros have one.
__device__ inline uint32_t OrderedBits(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float FloatOfOrderedBits(uint32_t ordered) {
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// NaN if either is.
__device__ __forceinline__ float MaxOrNan(float a, float b) {
  float max;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(max) : "f"(a), "f"(b));
  return max;
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

// Past the L1, in which nothing is met again. Volatile: a row of the workspace is written between
// passes. `four` is left as it is unless wanted.
__device__ __forceinline__ void LoadOnceIf(bool is_wanted, const float* from, float4& four) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.s32 p, %4, 0;\n"
      "@p ld.global.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%5];\n}"
      : "+f"(four.x), "+f"(four.y), "+f"(four.z), "+f"(four.w)
      : "r"(static_cast<int>(is_wanted)), "l"(from));
}
__device__ __forceinline__ float4 LoadOnce(const float* from) {
  float4 four;
  asm volatile("ld.global.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(four.x), "=f"(four.y), "=f"(four.z), "=f"(four.w)
               : "l"(from));
  return four;
}

// Elements begin .. begin + size - 1 of a row. `begin` is a multiple of the tile: tiles are the
// same however many blocks share the row.
struct RowPart {
  const float* row;  // 16-byte aligned
  int begin;
  int size;

  __device__ bool Owns(int id) const { return id >= begin && id < begin + size; }
  __device__ int tiles() const { return (size + kSampleTile - 1) / kSampleTile; }

  // Four elements, -inf beyond the end. REQUIRES: i, a multiple of 4, is below `size`.
  __device__ float4 Four(int i) const {
    const float* const from = row + begin;
    if (i + 4 <= size) return LoadOnce(from + i);
    const auto value = [&](int j) { return j < size ? from[j] : -CUDART_INF_F; };
    return make_float4(value(i), value(i + 1), value(i + 2), value(i + 3));
  }

  // visit(four successive elements, id of the first), each by one thread, all lanes of a warp
  // together, and end_tile(tile) after each of a warp's tiles, counted from the part's begin. What
  // lies beyond the end is -inf, of ids that are not the part's.
  //
  // kTiles are under way to each warp: a load that is consumed is replaced at once. One suffices
  // for many rows; two take 32 registers. kBackward: a second pass finds the end of a row in the
  // L2.
  template <int kTiles, bool kBackward, typename Visit, typename EndTile>
  __device__ __forceinline__ void Stream(const Visit& visit, const EndTile& end_tile) const {
    constexpr int kFours = kSampleTile / 128;
    constexpr int kStride = (kBackward ? -1 : 1) * kSampleWarps * kSampleTile;
    const int warp = threadIdx.x / 32;
    const int whole_tiles = size / kSampleTile;
    const int count = (whole_tiles - warp + kSampleWarps - 1) / kSampleWarps;  // this warp's
    int at = (kBackward ? warp + kSampleWarps * (count - 1) : warp) * kSampleTile +
             4 * (threadIdx.x % 32);
    const float* from = row + begin + at;
    float4 fours[kTiles][kFours] = {};
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
#pragma unroll
      for (int j = 0; j < kFours; ++j) {
        LoadOnceIf(count > k, from + k * kStride + 128 * j, fours[k][j]);
      }
    }
#pragma unroll 1
    for (int left = count; left > 0; left -= kTiles) {
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
        if (k == left) break;
#pragma unroll
        for (int j = 0; j < kFours; ++j) {
          visit(fours[k][j], begin + at + 128 * j);
          LoadOnceIf(left > k + kTiles, from + kTiles * kStride + 128 * j, fours[k][j]);
        }
        end_tile(at / kSampleTile);
        at += kStride;
        from += kStride;
      }
    }
    if (whole_tiles * kSampleTile < size && warp == whole_tiles % kSampleWarps) {
#pragma unroll 1
      for (int j = 0; j < kFours; ++j) {
        const int at = whole_tiles * kSampleTile + 128 * j + 4 * (threadIdx.x % 32);
        const float4 four =
            at < size ? Four(at)
                      : make_float4(-CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F);
        visit(four, begin + at);
      }
      end_tile(whole_tiles);
    }
  }
  template <int kTiles, bool kBackward, typename Visit>
  __device__ __forceinline__ void Stream(const Visit& visit) const {
    Stream<kTiles, kBackward>(visit, [](int) {});
  }

  // visit(logit, id), without haste: for what is rare.
  template <typename Visit>
  __device__ void ForEach(const Visit& visit) const {
#pragma unroll 1
    for (int i = 4 * threadIdx.x; i < size; i += 4 * kSampleThreads) {
      const float4 four = Four(i);
      visit(four.x, begin + i);
      visit(four.y, begin + i + 1);
      visit(four.z, begin + i + 2);
      visit(four.w, begin + i + 3);
    }
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_ROW_PART_CUH_
