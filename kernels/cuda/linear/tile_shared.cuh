// What the warps of a TileLinear CTA share: their part of the layer, and shared memory.
//
// Thread safety: device code.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_SHARED_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_SHARED_CUH_

#include <cstdint>

#include "kernels/cuda/linear/tile_args.h"
#include "kernels/cuda/linear/tile_split.h"
#include "kernels/cuda/ptx/ptx_sm90.cuh"
#include "kernels/cuda/ptx/warp_arrival.cuh"

namespace parallax::kernels::cuda {

constexpr int TileConsumerWarps(int warpgroups) { return 4 * warpgroups; }
// The next warp copies. Behind three warpgroups it has three idle ones beside it: registers are
// moved by whole warpgroups.
constexpr int TileThreads(int warpgroups) {
  return 32 * (TileConsumerWarps(warpgroups) + (warpgroups == kTileMaxWarpgroups ? 4 : 1));
}

struct TilePlace {
  int row_tile;
  int first_token;
};

// One CTA's part of the layer: its member's tile of every group that its cluster takes, and of each
// the inputs of steps first_step .. first_step + num_steps - 1. The grid is [clusters][CTAs of
// one]; a CTA's rank in its cluster is part * sharers + member. Nothing is divided here: all of it
// is on the way to the first copy.
struct TilePart {
  __device__ explicit TilePart(const TileArgs& args)
      : cluster(gridDim.x),
        sharers(1 << args.sharers_shift),
        part(blockIdx.x >> args.sharers_shift),
        member(blockIdx.x & (sharers - 1)),
        num_tiles(args.full_groups + (blockIdx.y < args.rest_groups ? 1 : 0)),
        first_step(args.first_steps[part]),
        num_steps(args.first_steps[part + 1] - first_step) {}

  // Of the CTA's tile number i. Tiles of the same weights are neighbours: they run at once.
  __device__ TilePlace Place(const TileArgs& args, int i) const {
    const int group = blockIdx.y + i * gridDim.y;
    const int row_tile = args.token_groups == 1 ? group : __umulhi(group, args.over_token_groups);
    const int token_group = group - row_tile * args.token_groups;
    return {row_tile, (token_group * sharers + member) * args.tile_tokens};
  }

  __device__ int RankOf(int other_part) const { return other_part * sharers + member; }
  __device__ int items() const { return num_tiles * num_steps; }

  int cluster;  // CTAs
  int sharers;
  int part;
  int member;
  int num_tiles;  // at least 1: there are no more clusters than groups
  int first_step;
  int num_steps;  // at least 1: there are no more parts than steps
};

// Addresses in shared memory. Of a stage, weights and x alike are rows of 128 bytes, swizzled.
template <int kWarpgroups, int kTokens>
class TileShared {
 public:
  static constexpr int kRows = kWarpgroups * kTileWarpgroupRows;
  static constexpr int kWeightBytes = kRows * kTensorStepBytes;
  static constexpr int kWarpgroupWeightBytes = kTileWarpgroupRows * kTensorStepBytes;
  static constexpr int kStageBytes = kWeightBytes + kTokens * kTensorStepBytes;

  __device__ TileShared(const TileArgs& args, uint32_t base)
      : base_(base), barriers_(base + args.barriers_offset) {}

  __device__ uint32_t Weights(int stage) const { return base_ + stage * kStageBytes; }
  __device__ uint32_t X(int stage) const { return Weights(stage) + kWeightBytes; }
  // Partial sums of the CTAs that share the tile, in the ring's place; whether the others' are
  // here; whether those CTAs are done with their rings and, next, have what they were sent.
  __device__ uint32_t Sums() const { return base_; }
  __device__ uint32_t SumsFull() const { return barriers_; }
  __device__ uint32_t RingsDone() const { return barriers_ + 8; }
  __device__ uint32_t Full(int stage) const { return barriers_ + 16 + 16 * stage; }
  __device__ uint32_t Empty(int stage) const { return barriers_ + 24 + 16 * stage; }

 private:
  const uint32_t base_;
  const uint32_t barriers_;
};

// Called by all threads. The first warp, whose lanes set up a barrier each, is the one that has to
// arrive at the cluster's barrier with release.
template <int kWarpgroups, int kTokens>
__device__ void InitTileBarriers(const TileArgs& args, const TilePart& part,
                                 const TileShared<kWarpgroups, kTokens>& shared) {
  constexpr int kWarps = TileConsumerWarps(kWarpgroups);
  static_assert(2 * kTileMaxStages + 2 <= 32);
  const int index = threadIdx.x;
  if (index < 2 * args.stages) {
    if (index % 2 == 0) {
      InitBarrier(shared.Full(index / 2), 1);
    } else {
      InitBarrier(shared.Empty(index / 2), kWarps * kArrivalsAWarp * part.sharers);
    }
  } else if (index == 2 * kTileMaxStages && args.input_parts > 1) {
    const int sums = args.first_sums[part.part + 1] - args.first_sums[part.part];
    InitBarrier(shared.RingsDone(), kWarps * args.input_parts);
    InitBarrier(shared.SumsFull(), 1);
    ArriveExpect(shared.SumsFull(), (args.input_parts - 1) * sums * kWarps * 512);
  }
  FenceCopyEngine();
  __syncthreads();
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_SHARED_CUH_
