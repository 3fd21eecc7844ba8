// What the warps of a TensorLinear CTA share: their part of the layer, and shared memory.
//
// Thread safety: device code.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_SHARED_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_SHARED_CUH_

#include <cstdint>

#include "kernels/cuda/linear/tensor_args.h"
#include "kernels/cuda/linear/tensor_split.h"
#include "kernels/cuda/ptx/ptx_sm90.cuh"
#include "kernels/cuda/ptx/warp_arrival.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kTensorConsumerWarpsLog2 = 3;
inline constexpr int kTensorConsumerWarps = 1 << kTensorConsumerWarpsLog2;  // two warpgroups
inline constexpr int kTensorThreads = 32 * (kTensorConsumerWarps + 1);      // the last warp copies

// One CTA's part of the layer: tiles first_tile, first_tile + tile_step, ..., and of each the
// inputs of steps first_step .. first_step + num_steps - 1.
struct TensorPart {
  __device__ explicit TensorPart(const TensorArgs& args)
      : rank(ClusterRank()),
        first_tile(blockIdx.x >> args.cluster_shift),
        tile_step(gridDim.x >> args.cluster_shift),
        num_tiles(args.full_tiles + (first_tile < args.rest_tiles ? 1 : 0)),
        first_step(args.steps * rank >> args.cluster_shift),
        num_steps((args.steps * (rank + 1) >> args.cluster_shift) - first_step) {}

  int rank;  // in the cluster
  int first_tile;
  int tile_step;
  int num_tiles;  // at least 1: there are no more clusters than tiles
  int first_step;
  int num_steps;  // at least 1: there are no more CTAs in a cluster than steps
};

// Addresses in shared memory. Of a stage, weights and x alike are rows of 128 bytes, swizzled.
template <int kTokens>
class TensorShared {
 public:
  static constexpr int kXBytes = kTokens * kTensorStepBytes;

  __device__ TensorShared(const TensorArgs& args, uint32_t base)
      : weights_(base),
        x_(base + args.x_offset),
        sums_(base + args.sums_offset),
        barriers_(base + args.barriers_offset) {}

  __device__ uint32_t Weights(int stage) const { return weights_ + stage * kTensorWeightBytes; }
  __device__ uint32_t X(int slot) const { return x_ + slot * kXBytes; }
  // Partial sums of all CTAs of the cluster, and whether they are here, or taken: by all CTAs.
  __device__ uint32_t Sums() const { return sums_; }
  __device__ uint32_t SumsFull() const { return barriers_; }
  __device__ uint32_t SumsTaken() const { return barriers_ + 8; }
  __device__ uint32_t Full(int stage) const { return barriers_ + 16 + 16 * stage; }
  __device__ uint32_t Empty(int stage) const { return barriers_ + 24 + 16 * stage; }

 private:
  const uint32_t weights_;
  const uint32_t x_;
  const uint32_t sums_;
  const uint32_t barriers_;
};

// Called by all threads. A barrier takes some 50 clocks to initialise: all warps share them.
template <int kTokens>
__device__ void InitTensorBarriers(const TensorArgs& args, const TensorShared<kTokens>& shared) {
  constexpr int kWarps = kTensorThreads / 32;
  static_assert(32 * kWarps >= 2 * kTensorMaxStages);
  const int index = threadIdx.x % 32 * kWarps + threadIdx.x / 32;
  if (index < 2 * args.stages) {
    const int stage = index / 2;
    if (index % 2 == 0) {
      InitBarrier(shared.Full(stage), 1);
    } else {
      InitBarrier(shared.Empty(stage), kTensorConsumerWarps);
    }
  }
  // By the warp that arrives at the cluster's barrier with release: peers use these.
  if (threadIdx.x == 0) {
    InitBarrier(shared.SumsFull(), 1);
    InitBarrier(shared.SumsTaken(), kTensorConsumerWarps * kArrivalsAWarp << args.cluster_shift);
  }
  FenceCopyEngine();
  __syncthreads();
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_SHARED_CUH_
