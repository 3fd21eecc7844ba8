// Merging the parts of rows whose keys were cut (prefill_schedule.cuh).
//
// A warp leaves the state of its 16 rows in scratch memory, every lane its own registers, and
// counts itself. The last of the parts to do so folds all of them together, in order of the keys:
// the result does not depend on who was last.
//
// Thread safety: device code; called by a whole warp.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_MERGE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_MERGE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/cuda/parallax_attention/prefill_row_state.cuh"

namespace parallax::kernels::cuda {

// A lane's vectors are 32 float4s apart: (m, c), (d1, d2), then o1 and o2.
template <int kSize>
__device__ __forceinline__ void StoreVectors(float4* to, const float (&values)[kSize]) {
#pragma unroll
  for (int j = 0; j < kSize; j += 4) {
    __stcg(to + j / 4 * 32, make_float4(values[j], values[j + 1], values[j + 2], values[j + 3]));
  }
}

template <int kOutSize>
__device__ __forceinline__ void StorePart(float4* to, const PrefillRowState& state,
                                          const float (&o1)[kOutSize],
                                          const float (&o2)[kOutSize]) {
  __stcg(to, make_float4(state.m[0], state.m[1], state.c[0], state.c[1]));
  __stcg(to + 32, make_float4(state.d1[0], state.d1[1], state.d2[0], state.d2[1]));
  StoreVectors(to + 64, o1);
  StoreVectors(to + 64 + kOutSize / 4 * 32, o2);
}

// How a part's state enters the merged one.
struct PartWeight {
  float factor[2];  // exp2 of its m less the merged m
  float shift[2];   // its centre less the merged centre
};

// Adds factor * (values + shift * of), where `of` are o1's values of the same part.
template <int kOutSize>
__device__ __forceinline__ void AddPart(const float4* from, const PartWeight& weight,
                                        PrefillRowState& state, float (&o1)[kOutSize],
                                        float (&o2)[kOutSize]) {
  const float4 d = __ldcg(from + 32);
  state.d1[0] = fmaf(weight.factor[0], d.x, state.d1[0]);
  state.d1[1] = fmaf(weight.factor[1], d.y, state.d1[1]);
  state.d2[0] = fmaf(weight.factor[0], fmaf(weight.shift[0], d.x, d.z), state.d2[0]);
  state.d2[1] = fmaf(weight.factor[1], fmaf(weight.shift[1], d.y, d.w), state.d2[1]);
#pragma unroll
  for (int j = 0; j < kOutSize; j += 4) {
    const float4 one = __ldcg(from + 64 + j / 4 * 32);
    const float4 two = __ldcg(from + 64 + (kOutSize + j) / 4 * 32);
    o1[j] = fmaf(weight.factor[0], one.x, o1[j]);
    o1[j + 1] = fmaf(weight.factor[0], one.y, o1[j + 1]);
    o1[j + 2] = fmaf(weight.factor[1], one.z, o1[j + 2]);
    o1[j + 3] = fmaf(weight.factor[1], one.w, o1[j + 3]);
    o2[j] = fmaf(weight.factor[0], fmaf(weight.shift[0], one.x, two.x), o2[j]);
    o2[j + 1] = fmaf(weight.factor[0], fmaf(weight.shift[0], one.y, two.y), o2[j + 1]);
    o2[j + 2] = fmaf(weight.factor[1], fmaf(weight.shift[1], one.z, two.z), o2[j + 2]);
    o2[j + 3] = fmaf(weight.factor[1], fmaf(weight.shift[1], one.w, two.w), o2[j + 3]);
  }
}

// Counts this part of the warp's rows; true for the last to come, which then sees the others'.
__device__ __forceinline__ bool IsLastPart(uint32_t* parts_done, int parts, int lane) {
  __threadfence();
  __syncwarp();
  uint32_t before = 0;
  if (lane == 0) {
    before = atomicAdd(parts_done, 1);
    if (before == parts - 1) *parts_done = 0;  // for the next launch
  }
  before = __shfl_sync(0xFFFFFFFF, before, 0);
  __threadfence();
  return before == parts - 1;
}

// Merges the states of the `parts` parts into that of all keys. True in the warp that now holds
// it; the others are done. `first` is the first part's slot, and the next part's is `stride` on.
template <int kOutSize>
__device__ __forceinline__ bool MergeParts(PrefillWorkspace& workspace, int first, int stride,
                                           int part, int parts, int lane, PrefillRowState& state,
                                           float (&o1)[kOutSize], float (&o2)[kOutSize]) {
  StorePart(workspace.partials[first + part * stride] + lane, state, o1, o2);
  if (!IsLastPart(&workspace.counters.parts_done[first], parts, lane)) return false;

  state.Reset();
  for (int p = 0; p < parts; ++p) {
    const float4 references = __ldcg(workspace.partials[first + p * stride] + lane);
    if (references.x > state.m[0]) state.m[0] = references.x, state.c[0] = references.z;
    if (references.y > state.m[1]) state.m[1] = references.y, state.c[1] = references.w;
  }
#pragma unroll
  for (int j = 0; j < kOutSize; ++j) o1[j] = o2[j] = 0.0f;
  for (int p = 0; p < parts; ++p) {
    const float4* const from = workspace.partials[first + p * stride] + lane;
    const float4 references = __ldcg(from);
    // A row that saw none of the part's keys has m = -inf there, hence no weight.
    const PartWeight weight = {{Exp2(references.x - state.m[0]), Exp2(references.y - state.m[1])},
                               {references.z - state.c[0], references.w - state.c[1]}};
    AddPart(from, weight, state, o1, o2);
  }
  return true;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_MERGE_CUH_
