// The probe state of kernels/probe_state.h as the GPU's kernels hold it, and its merge.
//
// Maxima are kept in powers of two: max is of s1 * softmax_scale * log2(e). An output pair
// holds two neighbouring dims of one row as (o1, o1, o2, o2), the order of an mma C fragment.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PROBE_STATE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PROBE_STATE_CUH_

#include <cuda_runtime_api.h>

#include <cmath>

#include "kernels/cuda/ptx/ptx.cuh"

namespace parallax::kernels::cuda {

struct ProbePair {
  float4 scalars = {-INFINITY, 0.0f, 0.0f, 0.0f};  // (max, centre, d1, d2) of the row
  float4 outputs = {0.0f, 0.0f, 0.0f, 0.0f};
};

// Brings a row's kStates states over different keys to one maximum and centre, and adds them up.
template <int kStates>
class RowMerge {
 public:
  __device__ explicit RowMerge(const float4 (&states)[kStates]) {
    sum_.x = -INFINITY;
    sum_.y = sum_.z = sum_.w = 0.0f;
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      // The same choice in whatever order the states come.
      if (states[i].x > sum_.x || (states[i].x == sum_.x && states[i].y > sum_.y)) {
        sum_.x = states[i].x;
        sum_.y = states[i].y;
      }
    }
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      factors_[i] = states[i].x == -INFINITY ? 0.0f : Exp2(states[i].x - sum_.x);
      shifts_[i] = states[i].y - sum_.y;
      sum_.z += factors_[i] * states[i].z;
      sum_.w += factors_[i] * (states[i].w + shifts_[i] * states[i].z);
    }
  }

  __device__ float4 scalars() const { return sum_; }

  // Adds state i's outputs.
  __device__ void Add(float4& sum, int i, float4 outputs) const {
    sum.x += factors_[i] * outputs.x;
    sum.y += factors_[i] * outputs.y;
    sum.z += factors_[i] * (outputs.z + shifts_[i] * outputs.x);
    sum.w += factors_[i] * (outputs.w + shifts_[i] * outputs.y);
  }

 private:
  float4 sum_;
  float factors_[kStates];
  float shifts_[kStates];
};

// Folds in a state whose factor exp2(its max - the merged max) is already known.
__device__ inline void Accumulate(ProbePair& sum, float4 scalars, float4 outputs) {
  const float factor = scalars.x == -INFINITY ? 0.0f : Exp2(scalars.x - sum.scalars.x);
  const float shift = scalars.y - sum.scalars.y;
  sum.scalars.z += factor * scalars.z;
  sum.scalars.w += factor * (scalars.w + shift * scalars.z);
  sum.outputs.x += factor * outputs.x;
  sum.outputs.y += factor * outputs.y;
  sum.outputs.z += factor * (outputs.z + shift * outputs.x);
  sum.outputs.w += factor * (outputs.w + shift * outputs.y);
}

// Folds states 0 .. count - 1 of kItems pairs into `sums`, in order; scalars(i, item) and
// outputs(i, item) read the i-th. The reads of kChunk states are in flight together.
template <int kChunk, int kItems, typename Scalars, typename Outputs>
__device__ void MergeStates(int count, Scalars scalars, Outputs outputs,
                            ProbePair (&sums)[kItems]) {
#pragma unroll 1
  for (int first = 0; first < count; first += kChunk) {
    ProbePair states[kChunk][kItems];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        if (first + i < count)
          states[i][item] = {scalars(first + i, item), outputs(first + i, item)};
      }
    }
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      ProbePair sum;
      sum.scalars.x = sums[item].scalars.x;
      sum.scalars.y = sums[item].scalars.y;
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const float4 state = states[i][item].scalars;
        if (state.x > sum.scalars.x) {
          sum.scalars.x = state.x;
          sum.scalars.y = state.y;
        }
      }
      Accumulate(sum, sums[item].scalars, sums[item].outputs);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        Accumulate(sum, states[i][item].scalars, states[i][item].outputs);
      }
      sums[item] = sum;
    }
  }
}

// out of the pair's two dims.
__device__ inline float2 Finish(const ProbePair& pair) {
  // d1 is 1 or more, as the top key's weight is; or 0, of a row that saw no key.
  const float inverse = pair.scalars.z > 0.0f ? __fdividef(1.0f, pair.scalars.z) : 0.0f;
  const float lift = 1.0f + pair.scalars.w * inverse;
  return make_float2((pair.outputs.x * lift - pair.outputs.z) * inverse,
                     (pair.outputs.y * lift - pair.outputs.w) * inverse);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PROBE_STATE_CUH_
