// What prefill keeps of its query rows while keys fold in, in matrix-fragment registers.
//
// A thread holds two rows of its warp's 16 (lane/4 and lane/4 + 8) and of them the columns
// 8j + 2*(lane%4) + 0..1 of every product: s[4j + 2i + e] belongs to row i, column 8j +
// 2*(lane%4) + e. The same holds of the outputs o1 and o2, with dimensions for columns.
//
// Two references keep numbers small, and both move seldom:
//   m  is subtracted from s1 before the exponential. It follows the row's maximum when that has
//      grown by more than kMaxGrowth, so p stays below 2^kMaxGrowth.
//   c  is subtracted from s2 (a law of the formula: `out` does not change), so that rounding
//      p * s2 to bf16 is harmless. It is the weighted mean of the keys so far, d2 / d1, taken
//      when m moves and at every kRecentreInterval-th key tile.
// Weights are rounded to bf16 for their product with V, and rounded they enter the denominators:
// the weights of a row's values, p (1 + d2/d1) - p s2 over d1, then sum to one exactly. Rounding
// moves `out` in proportion to how far the values are from their mean, not to their size nor to
// s2 - c, and a row with all its weight on one key gets that value whatever m and c are.
//
// Whether m and c move depends on the row and on absolute key positions only.
//
// Softmax attention keeps m, d1 and o1 alone.
//
// Thread safety: device code; called by a whole warp.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ROW_STATE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ROW_STATE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/ptx/ptx.cuh"

namespace parallax::kernels::cuda {

constexpr float kMaxGrowth = 3.0f;     // of s1 in powers of two before m follows
constexpr int kRecentreInterval = 16;  // key tiles

__device__ __forceinline__ float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 2));
}

__device__ __forceinline__ float QuadSum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFF, x, 2);
}

struct PrefillRowState {
  float m[2];  // in powers of two
  float c[2];
  float d1[2];  // this thread's columns only
  float d2[2];  // the same, of centred s2

  __device__ __forceinline__ void Reset() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      m[i] = -INFINITY;
      c[i] = d1[i] = d2[i] = 0.0f;
    }
  }
};

// Sets the scores of keys a row does not see to -inf. Row i sees columns first[i] .. last[i] of
// the tile, counted from the thread's own first column.
template <int kSize>
__device__ __forceinline__ void MaskScores(float (&s1)[kSize], const int (&first)[2],
                                           const int (&last)[2]) {
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    const int i = j / 2 % 2;
    const int column = j / 4 * 8 + j % 2;
    if (column < first[i] || column > last[i]) s1[j] = -INFINITY;
  }
}

// Keys without weight have no probe either: what lies in unseen slots may be NaN.
template <int kSize>
__device__ __forceinline__ void MaskProbes(const float (&p)[kSize], float (&s2)[kSize]) {
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    if (p[j] == 0.0f) s2[j] = 0.0f;
  }
}

// A tile's effect on its rows' references.
struct PrefillRowUpdate {
  float alpha[2];  // factor of what was accumulated under the old m
  bool moves[2];   // the row's references move
};

// Turns scores into weights p = exp2(s1 * scale_log2 - m) in place, moving m where it must.
template <int kSize>
__device__ __forceinline__ PrefillRowUpdate ExponentiateScores(float (&s1)[kSize], float scale_log2,
                                                               bool recentre,
                                                               PrefillRowState& state) {
  PrefillRowUpdate update;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float top = -INFINITY;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (j / 2 % 2 == i) top = fmaxf(top, s1[j]);
    }
    top = QuadMax(top) * scale_log2;
    update.moves[i] = top > -INFINITY && (recentre || top > state.m[i] + kMaxGrowth);
    const float m = update.moves[i] ? fmaxf(state.m[i], top) : state.m[i];
    update.alpha[i] = m == state.m[i] ? 1.0f : Exp2(state.m[i] - m);
    state.m[i] = m;
    const float subtract = m == -INFINITY ? 0.0f : m;  // no key seen yet: p = exp2(-inf) = 0
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (j / 2 % 2 == i) s1[j] = Exp2(fmaf(s1[j], scale_log2, -subtract));
    }
  }
  return update;
}

// Moves the references of the rows that `update` names: rescales what is accumulated and centres
// it on the weighted mean of all keys, this tile's (p, s2) included.
template <int kSize, int kOutSize>
__device__ __forceinline__ void MoveReferences(const PrefillRowUpdate& update,
                                               const float (&p)[kSize], const float (&s2)[kSize],
                                               PrefillRowState& state, float (&o1)[kOutSize],
                                               float (&o2)[kOutSize]) {
  float shift[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    state.d1[i] *= update.alpha[i];
    state.d2[i] *= update.alpha[i];
    float sum1 = state.d1[i];
    float sum2 = state.d2[i];
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (j / 2 % 2 != i) continue;
      sum1 += p[j];
      sum2 = fmaf(p[j], s2[j] - state.c[i], sum2);
    }
    const float mean = QuadSum(sum2) / QuadSum(sum1);
    shift[i] = update.moves[i] ? -mean : 0.0f;  // the old centre less the new one
    state.c[i] -= shift[i];
    state.d2[i] = fmaf(shift[i], state.d1[i], state.d2[i]);
  }
#pragma unroll
  for (int j = 0; j < kOutSize; ++j) {
    const int i = j / 2 % 2;
    o1[j] *= update.alpha[i];
    o2[j] = fmaf(shift[i], o1[j], o2[j] * update.alpha[i]);
  }
}

// The same for softmax attention: rescales the rows that `update` names.
template <int kOutSize>
__device__ __forceinline__ void MoveReferences(const PrefillRowUpdate& update,
                                               PrefillRowState& state, float (&o1)[kOutSize]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) state.d1[i] *= update.alpha[i];
#pragma unroll
  for (int j = 0; j < kOutSize; ++j) o1[j] *= update.alpha[j / 2 % 2];
}

// Weights as A fragments of the product with V: four registers for every 16 keys.
template <int kSize>
__device__ __forceinline__ void PackWeights(const float (&p)[kSize],
                                            uint32_t (&packed)[kSize / 8][4]) {
#pragma unroll
  for (int j = 0; j < kSize; j += 2) packed[j / 8][j / 2 % 4] = PackBFloat16(p[j], p[j + 1]);
}

// Adds packed weights to the denominators d1, or packed probes to d2.
template <int kSteps>
__device__ __forceinline__ void AddPacked(const uint32_t (&packed)[kSteps][4], float (&d)[2]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      d[j % 2] += LowBFloat16(packed[step][j]);
      d[j % 2] += HighBFloat16(packed[step][j]);
    }
  }
}

// p * (s2 - c) as A fragments.
template <int kSize>
__device__ __forceinline__ void PackProbes(const float (&p)[kSize], const float (&s2)[kSize],
                                           const PrefillRowState& state,
                                           uint32_t (&packed)[kSize / 8][4]) {
#pragma unroll
  for (int j = 0; j < kSize; j += 2) {
    const float c = state.c[j / 2 % 2];
    packed[j / 8][j / 2 % 4] = PackBFloat16(p[j] * (s2[j] - c), p[j + 1] * (s2[j + 1] - c));
  }
}

// out = (o1/d1) * (1 + d2/d1) - o2/d1, left in o1.
template <int kOutSize>
__device__ __forceinline__ void FinishRows(const PrefillRowState& state, float (&o1)[kOutSize],
                                           const float (&o2)[kOutSize]) {
  float weight[2];
  float inverse[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    inverse[i] = 1.0f / QuadSum(state.d1[i]);
    weight[i] = inverse[i] * fmaf(QuadSum(state.d2[i]), inverse[i], 1.0f);
  }
#pragma unroll
  for (int j = 0; j < kOutSize; ++j) {
    const int i = j / 2 % 2;
    o1[j] = o1[j] * weight[i] - o2[j] * inverse[i];
  }
}

// The same for softmax attention: out = o1/d1.
template <int kOutSize>
__device__ __forceinline__ void FinishRows(const PrefillRowState& state, float (&o1)[kOutSize]) {
  float inverse[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) inverse[i] = 1.0f / QuadSum(state.d1[i]);
#pragma unroll
  for (int j = 0; j < kOutSize; ++j) o1[j] *= inverse[j / 2 % 2];
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ROW_STATE_CUH_
