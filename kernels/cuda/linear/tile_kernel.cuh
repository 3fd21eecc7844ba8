// The linear layer for many tokens on Hopper. See kernels/cuda/linear.h.
//
// W is the matrix unit's A operand and x its B: a warpgroup multiplies 64 rows by up to 256 tokens.
// One warp copies steps of 64 inputs, of W and of x, into a ring of stages; two or three warpgroups
// multiply. Where there are few tiles, their inputs are cut over a cluster's CTAs, whose sums meet
// in distributed shared memory. CTAs of neighbouring token tiles may be a cluster too: each copies
// a part of the weights to all.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_CUH_

#include <cstdint>
#include <utility>

#include "kernels/cuda/linear/tile_consumer.cuh"
#include "kernels/cuda/linear/tile_kernel.h"
#include "kernels/cuda/linear/tile_producer.cuh"
#include "kernels/cuda/linear/tile_shared.cuh"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/ptx.cuh"

namespace parallax::kernels::cuda {

// Three warpgroups and a copying warp leave a thread 128 registers, as many as it has sums. So the
// copying warp comes with a whole warpgroup, which gives most of its registers to the others.
inline constexpr int kTileCopyingRegisters = 32;
inline constexpr int kTileMultiplyingRegisters = 160;

template <int kWarpgroups, int kTokens, TileOutput kOutput>
__global__ void __launch_bounds__(TileThreads(kWarpgroups), 1)
    TileLinearKernel(const __grid_constant__ TileArgs args) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const TileShared<kWarpgroups, kTokens> shared(args, SharedAddress(dynamic_shared));
  const TilePart part(args);
  const int warp = threadIdx.x / 32;
  constexpr int kCopyingWarp = TileConsumerWarps(kWarpgroups);
  constexpr bool kMovesRegisters = kWarpgroups == kTileMaxWarpgroups;
  const bool copies = threadIdx.x == 32 * kCopyingWarp;
  if (copies) {
    PrefetchTensorMap(args.weight);
    PrefetchTensorMap(args.x);
  }
  LetNextKernelStart();
  InitTileBarriers(args, part, shared);
  const bool in_cluster = part.cluster > 1;
  if (in_cluster) {
    // Only the first warp has barriers to show to its peers.
    if (warp == 0) {
      ArriveAtPeers();
    } else {
      ArriveAtPeersRelaxed();
    }
    MeetForSanitizer();
  }
  if (warp >= kCopyingWarp) {
    if constexpr (kMovesRegisters) ShrinkRegisters<kTileCopyingRegisters>();
    if (part.sharers > 1) AwaitPeers();  // it copies to peers, and counts on their barriers
    if (copies) {
      TileProducer<kWarpgroups, kTokens, kOutput == TileOutput::kSiluAndMul>(args, part, shared)
          .Run();
    }
    __syncwarp();
    if (in_cluster && part.sharers == 1) AwaitPeers();
  } else {
    if constexpr (kMovesRegisters) GrowRegisters<kTileMultiplyingRegisters>();
    WaitForPrecedingKernel();
    if (in_cluster) AwaitPeers();
    TileConsumer<kWarpgroups, kTokens, kOutput>(args, part, shared).Run();
  }
}

template <TileOutput kOutput, int... kWidths>
TileKernel TileKernelOf(int width, std::integer_sequence<int, kWidths...>) {
  constexpr int kWarpgroups = TileWarpgroups(kOutput == TileOutput::kFloat32);
  TileKernel kernel = nullptr;
  ((kernel = width == kWidths ? TileLinearKernel<kWarpgroups, kWidths, kOutput> : kernel), ...);
  return kernel;
}

template <TileOutput kOutput>
TileKernel TileKernelFor(int width) {
  return TileKernelOf<kOutput>(width, TileWidths());
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_CUH_
