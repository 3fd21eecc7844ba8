// The transforms of kernels/sampling.h ahead of the temperature, on a block's part of a row.
//
// Products and differences are rounded one by one, as on the CPU, so that greedy tokens agree.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_LOGIT_TRANSFORMS_CUH_
#define PARALLAX_KERNELS_CUDA_SAMPLING_LOGIT_TRANSFORMS_CUH_

#include <math_constants.h>

#include <cstdint>

#include "kernels/cuda/sampling/row_part.cuh"
#include "kernels/cuda/sampling/sample_args.h"

namespace parallax::kernels::cuda {

__device__ inline float Penalized(const DeviceSamplingRow& row, int output_count, float logit) {
  logit = logit > 0.0f ? __fdiv_rn(logit, row.repetition_penalty)
                       : __fmul_rn(logit, row.repetition_penalty);
  if (output_count == 0) return logit;
  logit = __fsub_rn(logit, __fmul_rn(row.frequency_penalty, static_cast<float>(output_count)));
  return __fsub_rn(logit, row.presence_penalty);
}

__device__ inline bool HasTransforms(const DeviceSamplingRow& row) {
  return row.logit_bias_count > 0 || row.counts_tokens != 0 || row.banned_count > 0 ||
         row.allowed_mask_begin >= 0;
}

// `logits` is the row that `part` refers to. Begins and ends with a barrier of the block.
__device__ inline void TransformLogits(const SampleArgs& args, const DeviceSamplingRow& row,
                                       const RowPart& part, float* logits) {
  const auto at = [&](int id) -> float& { return logits[id]; };
  __syncthreads();
  for (int i = threadIdx.x; i < row.logit_bias_count; i += kSampleThreads) {
    const LogitBias entry = args.logit_bias[row.logit_bias_begin + i];
    if (part.Owns(entry.token)) at(entry.token) += entry.bias;
  }
  __syncthreads();
  if (row.counts_tokens != 0) {
    const TokenCountTable& table = args.token_counts;
    const TokenCount* const entries =
        table.entries + static_cast<int64_t>(row.slot) * table.capacity;
    for (int i = threadIdx.x; i < table.sizes[row.slot]; i += kSampleThreads) {
      const TokenCount entry = entries[i];
      if (part.Owns(entry.token)) {
        at(entry.token) = Penalized(row, entry.output_count, at(entry.token));
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < row.banned_count; i += kSampleThreads) {
    const int id = args.banned_ids[row.banned_begin + i];
    if (part.Owns(id)) at(id) = -CUDART_INF_F;
  }
  if (row.allowed_mask_begin >= 0) {
    const uint32_t* const mask = args.allowed_masks + row.allowed_mask_begin;
    for (int i = threadIdx.x; i < part.size; i += kSampleThreads) {
      const int id = part.begin + i;
      if ((mask[id / 32] >> id % 32 & 1) == 0) at(id) = -CUDART_INF_F;
    }
  }
  __syncthreads();
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_LOGIT_TRANSFORMS_CUH_
