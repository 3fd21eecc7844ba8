// Merging the parts of rows whose keys were cut (prefill_schedule.cuh).
//
// Parts are merged in pairs, and the pairs in pairs: a tree whose shape the number of parts gives.
// A warp has the state of its 16 rows over a part. Of two neighbours the first to be done leaves
// its state in scratch memory; the other takes it from there, and goes on with both. What is left
// and what is right enters the sum in that order: the result does not depend on who was first.
//
// A warp's own outputs are meanwhile on a shelf in shared memory: beside what they are merged with,
// and where they are from, they do not fit the registers.
//
// Thread safety: device code; called by a whole warp.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_MERGE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_MERGE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/cuda/parallax_attention/prefill_row_state.cuh"

namespace parallax::kernels::cuda {

// A lane's vectors in scratch memory are 32 float4s apart: (m, c), (d1, d2), then o1 and o2.
constexpr int kPartScalars = 2 * 32;  // float4s before the outputs

__device__ __forceinline__ float4& Vector(float* values, int j) {
  return reinterpret_cast<float4*>(values)[j];
}

// One row's state under one pair of references, of two parts: those before and after a key.
class PartPair {
 public:
  // `own` is in this warp's registers. Afterwards m and c are the references of both parts.
  __device__ __forceinline__ PartPair(bool own_is_right, float other_m, float other_c, float& m,
                                      float& c)
      : own_is_right_(own_is_right) {
    const float left_m = own_is_right ? other_m : m;
    const float right_m = own_is_right ? m : other_m;
    const float left_c = own_is_right ? other_c : c;
    const float right_c = own_is_right ? c : other_c;
    m = fmaxf(left_m, right_m);
    c = right_m > left_m ? right_c : left_c;
    // A row that saw none of a part's keys has m = -inf there, hence no weight.
    const float reference = m == -INFINITY ? 0.0f : m;
    left_factor_ = Exp2(left_m - reference);
    right_factor_ = Exp2(right_m - reference);
    left_shift_ = left_c - c;
    right_shift_ = right_c - c;
  }

  // Of d1 or an element of o1.
  __device__ __forceinline__ float Sum(float own, float other) const {
    const float left = own_is_right_ ? other : own;
    const float right = own_is_right_ ? own : other;
    return fmaf(right_factor_, right, left_factor_ * left);
  }

  // Of d2 or an element of o2, which are centred; `own1` and `other1` are of d1 or o1.
  __device__ __forceinline__ float CentredSum(float own1, float own2, float other1,
                                              float other2) const {
    const float own = fmaf(own_is_right_ ? right_shift_ : left_shift_, own1, own2);
    const float other = fmaf(own_is_right_ ? left_shift_ : right_shift_, other1, other2);
    return Sum(own, other);
  }

 private:
  const bool own_is_right_;
  float left_factor_;  // exp2 of a part's m less the pair's
  float right_factor_;
  float left_shift_;  // a part's centre less the pair's
  float right_shift_;
};

// Folds vectors of each output, four elements of rows 0, 0, 1 and 1, into this warp's.
__device__ __forceinline__ void FoldVectors(const PartPair (&rows)[2], const float4& other1,
                                            const float4& other2, float4& own1, float4& own2) {
  own2.x = rows[0].CentredSum(own1.x, own2.x, other1.x, other2.x);
  own2.y = rows[0].CentredSum(own1.y, own2.y, other1.y, other2.y);
  own2.z = rows[1].CentredSum(own1.z, own2.z, other1.z, other2.z);
  own2.w = rows[1].CentredSum(own1.w, own2.w, other1.w, other2.w);
  own1.x = rows[0].Sum(own1.x, other1.x);
  own1.y = rows[0].Sum(own1.y, other1.y);
  own1.z = rows[1].Sum(own1.z, other1.z);
  own1.w = rows[1].Sum(own1.w, other1.w);
}

// `shelf(i)` is where a lane keeps vector i of its outputs, first those of o1.
template <int kVectors, typename Shelf>
__device__ __forceinline__ void StorePart(float4* to, const PrefillRowState& state, Shelf shelf) {
  __stcg(to, make_float4(state.m[0], state.m[1], state.c[0], state.c[1]));
  __stcg(to + 32, make_float4(state.d1[0], state.d1[1], state.d2[0], state.d2[1]));
#pragma unroll 8
  for (int i = 0; i < 2 * kVectors; ++i) __stcg(to + kPartScalars + i * 32, *shelf(i));
}

// Folds the part that lies at `from` into this warp's.
template <int kVectors, typename Shelf>
__device__ __forceinline__ void FoldPart(const float4* from, bool own_is_right,
                                         PrefillRowState& state, Shelf shelf) {
  const float4 references = __ldcg(from);
  const float4 d = __ldcg(from + 32);
  const PartPair rows[2] = {
      PartPair(own_is_right, references.x, references.z, state.m[0], state.c[0]),
      PartPair(own_is_right, references.y, references.w, state.m[1], state.c[1])};
  state.d2[0] = rows[0].CentredSum(state.d1[0], state.d2[0], d.x, d.z);
  state.d2[1] = rows[1].CentredSum(state.d1[1], state.d2[1], d.y, d.w);
  state.d1[0] = rows[0].Sum(state.d1[0], d.x);
  state.d1[1] = rows[1].Sum(state.d1[1], d.y);
  const float4* const outputs = from + kPartScalars;
  constexpr int kBatch = 8;  // vectors of each output on their way at once
#pragma unroll 1
  for (int first = 0; first < kVectors; first += kBatch) {
    float4 one[kBatch];
    float4 two[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      one[i] = __ldcg(outputs + (first + i) * 32);
      two[i] = __ldcg(outputs + (kVectors + first + i) * 32);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      FoldVectors(rows, one[i], two[i], *shelf(first + i), *shelf(kVectors + first + i));
    }
  }
}

// What two neighbours do to the counter of their pair: each claims it, and the first to do so says
// when its state is stored. In any order the counter ends at three.
constexpr uint32_t kPairDone = 3;

// The counter's operations are lane 0's. What a shuffle returns is known to be the same in all
// lanes: behind a branch that may not be, the compiler finds no room for a warpgroup's
// accumulators.
__device__ __forceinline__ uint32_t CountUp(uint32_t* counter, int lane) {
  uint32_t before = 0;
  if (lane == 0) before = atomicAdd(counter, 1);
  return __shfl_sync(0xFFFFFFFF, before, 0);
}

// True for the second of a pair to come.
__device__ __forceinline__ bool ClaimPair(uint32_t* counter, int lane) {
  return CountUp(counter, lane) > 0;
}

// By the first, after its stores.
__device__ __forceinline__ void ReleasePair(uint32_t* counter, int lane) {
  __threadfence();
  __syncwarp();
  CountUp(counter, lane);
}

// By the second: the first has claimed the pair, hence runs, and only its stores are waited for.
// The counter is left as it was before the launch.
__device__ __forceinline__ void AwaitPair(uint32_t* counter, int lane) {
  uint32_t count = 0;
  do {
    asm volatile(
        "{\n"
        ".reg .pred first;\n"
        "setp.eq.s32 first, %2, 0;\n"
        "@first ld.acquire.gpu.global.u32 %0, [%1];\n"
        "}\n"
        : "+r"(count)
        : "l"(counter), "r"(lane)
        : "memory");
    count = __shfl_sync(0xFFFFFFFF, count, 0);
  } while (count != kPairDone);
  asm volatile(
      "{\n"
      ".reg .pred first;\n"
      "setp.eq.s32 first, %1, 0;\n"
      "@first st.relaxed.gpu.global.u32 [%0], 0;\n"
      "}\n" ::"l"(counter),
      "r"(lane)
      : "memory");
  __syncwarp();
}

// Merges this warp's state over part `part` of `parts` with those of the other parts' warps. True
// in the warp that then holds the state of all keys; the others are done. `first` is the first
// part's slot, and the next part's is `stride` on. `shelf(i)` points to a float4 of the lane in
// shared memory, for each i below kOutSize / 2.
template <int kOutSize, typename Shelf>
__device__ __forceinline__ bool MergeParts(PrefillWorkspace& workspace, int first, int stride,
                                           int part, int parts, int lane, Shelf shelf,
                                           PrefillRowState& state, float (&o1)[kOutSize],
                                           float (&o2)[kOutSize]) {
  constexpr int kVectors = kOutSize / 4;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    *shelf(i) = Vector(o1, i);
    *shelf(kVectors + i) = Vector(o2, i);
  }
  int begin = part;  // of the parts [begin, begin + size) that this warp holds
  for (int size = 1; size < parts; size *= 2) {
    const bool is_right = begin & size;
    const int right = begin | size;  // where the right one of the pair begins, which names it
    if (right >= parts) continue;    // without a neighbour
    uint32_t* const counter = &workspace.counters.pairs[first + right * stride];
    if (!ClaimPair(counter, lane)) {
      StorePart<kVectors>(workspace.partials[first + begin * stride] + lane, state, shelf);
      ReleasePair(counter, lane);
      return false;
    }
    AwaitPair(counter, lane);
    const int other = begin ^ size;
    FoldPart<kVectors>(workspace.partials[first + other * stride] + lane, is_right, state, shelf);
    begin &= ~size;
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    Vector(o1, i) = *shelf(i);
    Vector(o2, i) = *shelf(kVectors + i);
  }
  return true;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_MERGE_CUH_
