// What the warps of a TileLinear CTA share: their part of the layer, and shared memory.
//
// Thread safety: device code.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_SHARED_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_SHARED_CUH_

#include <cstdint>

#include "kernels/cuda/linear/tile_args.h"
#include "kernels/cuda/linear/tile_split.h"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

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
// the inputs of steps first_step .. first_step + num_steps - 1. A CTA's rank in its cluster is
// part * sharers + member.
struct TilePart {
  __device__ explicit TilePart(const TileArgs& args)
      : cluster(args.input_parts * args.sharers),
        part(ClusterRank() / args.sharers),
        member(ClusterRank() % args.sharers),
        first_group(blockIdx.x / cluster),
        group_step(gridDim.x / cluster),
        num_tiles((args.groups - first_group + group_step - 1) / group_step),
        first_step(args.steps * part / args.input_parts),
        num_steps(args.steps * (part + 1) / args.input_parts - first_step) {}

  // Of the CTA's tile number i. Tiles of the same weights are neighbours: they run at once.
  __device__ TilePlace Place(const TileArgs& args, int i) const {
    const int group = first_group + i * group_step;
    const int token_tile = group % args.token_groups * args.sharers + member;
    return {group / args.token_groups, token_tile * args.tile_tokens};
  }

  __device__ int items() const { return num_tiles * num_steps; }

  int cluster;  // CTAs
  int part;
  int member;
  int first_group;
  int group_step;
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
  // Partial sums of the cluster's other CTAs, in the ring's place; whether they are here; whether
  // those CTAs are done with their rings.
  __device__ uint32_t Sums() const { return base_; }
  __device__ uint32_t SumsFull() const { return barriers_; }
  __device__ uint32_t RingsDone() const { return barriers_ + 8; }
  __device__ uint32_t Full(int stage) const { return barriers_ + 16 + 16 * stage; }
  __device__ uint32_t Empty(int stage) const { return barriers_ + 24 + 16 * stage; }

 private:
  const uint32_t base_;
  const uint32_t barriers_;
};

// The groups of 8 tokens of a tile that a part of its inputs' CTA adds up: FirstSumGroup(part) up
// to that of the next part.
__device__ inline int FirstSumGroup(const TileArgs& args, int part) {
  return args.tile_tokens / 8 * part / args.input_parts;
}

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
      InitBarrier(shared.Empty(index / 2), kWarps * args.sharers);
    }
  } else if (index == 2 * kTileMaxStages && args.input_parts > 1) {
    const int groups = FirstSumGroup(args, part.part + 1) - FirstSumGroup(args, part.part);
    InitBarrier(shared.RingsDone(), kWarps * (args.input_parts - 1));
    InitBarrier(shared.SumsFull(), 1);
    ArriveExpect(shared.SumsFull(), (args.input_parts - 1) * groups * kWarps * 512);
  }
  FenceCopyEngine();
  __syncthreads();
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_SHARED_CUH_
