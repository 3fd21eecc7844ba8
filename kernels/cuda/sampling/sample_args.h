// What the sampling kernels take: SampleParams as plain pointers.
#ifndef PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ARGS_H_
#define PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ARGS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/sampling.h"

namespace parallax::kernels::cuda {

// A warp reads this many successive elements of a row together.
inline constexpr int kSampleTile = 512;
inline constexpr int kMaxSampleTiles = kMaxSampleVocab / kSampleTile;

struct SampleArgs {
  const float* logits;  // [.., vocab], rows `stride` elements apart, 16-byte aligned
  int64_t stride;
  int vocab;
  int limit;  // ids below are sampled
  int part;   // elements of a row below the limit that one block owns, a multiple of the tile
  const DeviceSamplingRow* rows;
  int num_rows;
  const LogitBias* logit_bias;
  const int32_t* banned_ids;
  const uint32_t* allowed_masks;
  TokenCountTable token_counts;
  int32_t* slot_tokens;
  SampleResult* results;
  float* workspace;  // [rows, workspace_stride]: a row's logits if any are changed
  int64_t workspace_stride;
};

// A cluster of 2, 4 or 8 blocks samples a row: for few rows. Hopper.
void LaunchSampleCluster(const SampleArgs& args, int blocks, cudaStream_t stream);

// A block samples a row. Any GPU.
void LaunchSampleBlock(const SampleArgs& args, cudaStream_t stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SAMPLING_SAMPLE_ARGS_H_
