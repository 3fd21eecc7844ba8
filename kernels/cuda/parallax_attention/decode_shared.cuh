// What the Hopper decode kernel keeps in shared memory: the ring that pages pass through, and what
// warps and CTAs tell each other.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SHARED_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SHARED_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_merge.cuh"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_ptx.cuh"
#include "kernels/cuda/parallax_attention/decode_tile.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kMaxRingSlots = 16;

inline constexpr int kDecodeThreads = kConsumerThreads + 32;

// Shared memory that each of them may have: 1 KB a CTA is the system's.
constexpr int DecodeSharedBudget(int ctas_per_sm) { return 228 * 1024 / ctas_per_sm - 1024; }

template <int kDim, int kTiles, int kClusterSize>
struct ClusterInbox {
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  float4 scalars[kClusterSize][Shape::kRows];
  float4 items[kClusterSize][Shape::kItems][32];
};

template <int kDim, int kTiles>
struct ClusterInbox<kDim, kTiles, 1> {};

template <int kDim, int kTiles, int kClusterSize>
struct SharedBesidesRing {
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;

  // Queries are read until the last page, warps' items exchanged after it.
  union {
    QueryTile<kDim, kTiles> query;
    WarpItems<kDim, kTiles> warp_items;
  };
  WarpScalars<kTiles> warp_scalars;
  ClusterInbox<kDim, kTiles, kClusterSize> inbox[2];
  PlanStorage plan;
  uint64_t merge_barriers[2];
  uint64_t ring_barriers[2 * kMaxRingSlots];
  CutUnits cut;
};

template <int kDim, int kTiles, int kClusterSize>
struct DecodeShared {
  using Besides = SharedBesidesRing<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  static constexpr int kSlots = std::min(
      kMaxRingSlots, (DecodeSharedBudget(Shape::kCtasPerSm) - static_cast<int>(sizeof(Besides))) /
                         Shape::kBlockBytes);
  static_assert(kSlots >= 4);

  uint8_t ring[kSlots][Shape::kBlockBytes];  // K and V of a page, one block after the other
  Besides besides;

  __device__ uint32_t Block(int slot) const { return SharedAddress(ring[slot]); }
  __device__ uint32_t Full(int slot) const {
    return SharedAddress(&besides.ring_barriers[slot * 2]);
  }
  __device__ uint32_t Empty(int slot) const {
    return SharedAddress(&besides.ring_barriers[slot * 2 + 1]);
  }
};

// Where in the ring a CTA's n-th block goes.
template <int kSlots>
struct RingPosition {
  int slot = 0;
  uint32_t phase = 0;
  __device__ void Advance() {
    if (++slot == kSlots) {
      slot = 0;
      phase ^= 1;
    }
  }
};

// This rank's share of a segment's pages.
template <int kClusterSize>
struct PageRange {
  int begin;
  int end;
  __device__ PageRange(const Segment& segment, int rank) {
    const int pages = segment.end_page - segment.begin_page;
    begin = segment.begin_page + pages * rank / kClusterSize;
    end = segment.begin_page + pages * (rank + 1) / kClusterSize;
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SHARED_CUH_
