// The decode kernel for Hopper: bulk copies into a ring, clusters that merge through
// distributed shared memory.
//
// A cluster of kClusterSize CTAs takes a slice of the batch's pages (decode_plan.cuh); each CTA
// reads its share of every segment. In a CTA one warp feeds the ring (decode_producer.cuh) and four
// do the arithmetic (decode_consumer.cuh, decode_tile.cuh). At a segment's end the CTAs scatter
// their states by dims, each merges one part, and either writes it out or, where the unit was cut,
// leaves it in global memory; the last cluster to do so merges those in slice order.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_consumer.cuh"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_producer.cuh"
#include "kernels/cuda/parallax_attention/decode_shared.cuh"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

// At a CTA's end. A grid is complete when all of its CTAs are: the last one, which has none behind
// it that waits for its place, keeps this grid from completing before the kernel that it runs
// beside.
__device__ inline void EndAfterPreceding(const DecodeArgs& args) {
  if (args.beside_preceding && blockIdx.x == gridDim.x - 1) WaitForPrecedingKernel();
}

// What the feeding warp needs for its first page, which so waits for no other warp.
__device__ inline void InitFirstSlots(uint64_t* ring_barriers) {
  const int slot = threadIdx.x - kConsumerThreads;
  if (slot < 2) InitBarrier(SharedAddress(&ring_barriers[slot * 2]), 1);
  FenceCopyEngine();
  ArriveAtNamedBarrier<kFirstSlotsReady, kDecodeThreads>();
}

// The ring's other barriers. An mbarrier.init takes some 50 cycles, so the consumers' warps share
// them.
template <int kDim, int kTiles, int kClusterSize>
__device__ void InitBarriers(SharedBesidesRing<kDim, kTiles, kClusterSize>& shared,
                             int ring_slots) {
  const int slot = threadIdx.x % 32 * kConsumerWarps + threadIdx.x / 32;
  if (slot < ring_slots) {
    if (slot >= 2) InitBarrier(SharedAddress(&shared.ring_barriers[slot * 2]), 1);  // full
    InitBarrier(SharedAddress(&shared.ring_barriers[slot * 2 + 1]), kArrivalsToFree);
  }
  FenceCopyEngine();
  ArriveAtNamedBarrier<kRingReady, kDecodeThreads>();
  if constexpr (kClusterSize > 1) ArriveAtPeersRelaxed();
}

template <int kDim, int kTiles, int kClusterSize>
__global__ void __launch_bounds__(kDecodeThreads,
                                  (DecodeShape<kDim, kTiles, kClusterSize>::kCtasPerSm))
    DecodeKernelSm90(const __grid_constant__ DecodeArgs args) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
  const int rank = kClusterSize == 1 ? 0 : ClusterRank();
  const int slice = blockIdx.x / kClusterSize;

  PrefetchLengths(args);
  if (threadIdx.x >= kConsumerThreads) {
    InitFirstSlots(shared.besides.ring_barriers);
  } else {
    InitBarriers(shared.besides, args.ring_slots);
  }
  StartForSanitizer<kClusterSize>(shared.besides.merge_barriers);
  // Only now, as the fence behind the barriers waits for loads on their way.
  DecodeProducer<kDim, kTiles, kClusterSize> producer(args, shared, slice, rank);
  LetNextKernelStart();
  auto& plan = shared.besides.plan;
  SegmentWalker walker(args, plan.plans[threadIdx.x / 32], slice);
  const BatchPages pages = PagesOfBatch(args, WholePages<kClusterSize>(args));
  Segment segment;
  bool more;
  if (!TakesWholeUnits<kClusterSize>(args, pages)) {
    MakePlan<kClusterSize>(args, pages, plan);
    more = walker.FirstPart(segment);
  } else if (args.units_a_cluster > 1) {
    more = walker.FirstUnit(segment);
  } else {
    more = TakeOnlyUnit(args, slice, segment);
  }
  if (threadIdx.x >= kConsumerThreads) {
    producer.Run(segment, more, walker, shared.besides.merge_barriers);
  } else {
    DecodeConsumer<kDim, kTiles, kClusterSize> consumer(args, shared, slice, rank);
    WaitForInputs(args);
    consumer.Run(segment, more, walker);
  }
  EndAfterPreceding(args);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_
