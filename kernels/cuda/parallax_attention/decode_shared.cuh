// What the Hopper decode kernel keeps in shared memory: the ring that pages pass through, and what
// warps and CTAs tell each other.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SHARED_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SHARED_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_merge.cuh"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_tile.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/for_sanitizer.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"
#include "kernels/cuda/ptx/warp_arrival.cuh"

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

  // Of this segment and the next; one tile's are in registers before the next are sent for.
  QueryTile<kDim, kTiles> queries[kTiles];
  Segment segments[2];
  WarpItems<kDim, kTiles> warp_items;
  WarpScalars<kTiles> warp_scalars;
  ClusterInbox<kDim, kTiles, kClusterSize> inbox[2];
  PlanStorage<kClusterSize> plan;
  uint64_t merge_barriers[2];
  uint64_t ring_barriers[2 * kMaxRingSlots];
  CutUnits cut;
};

// The ring follows: args.ring_slots blocks, K and V of a page one after the other.
template <int kDim, int kTiles, int kClusterSize>
struct DecodeShared {
  using Besides = SharedBesidesRing<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;

  Besides besides;
  alignas(1024) uint8_t ring[];

  // The most that fit where `ctas_per_sm` share an SM.
  static constexpr int MaxSlots(int ctas_per_sm) {
    return std::min(kMaxRingSlots,
                    (DecodeSharedBudget(ctas_per_sm) - static_cast<int>(sizeof(Besides)) - 1023) /
                        Shape::kBlockBytes);
  }
  static_assert(MaxSlots(Shape::kCtasPerSm) >= Shape::kMinRingSlots);
};

// The ring's addresses, and where in it a CTA's n-th block goes.
template <int kBlockBytes>
class Ring {
 public:
  __device__ Ring(const uint8_t* blocks, const uint64_t* barriers, int slots)
      : blocks_(Opaque(SharedAddress(blocks))),
        barriers_(Opaque(SharedAddress(barriers))),
        slots_(slots) {}

  __device__ uint32_t Block() const { return blocks_ + slot_ * kBlockBytes; }
  __device__ uint32_t Full() const { return barriers_ + slot_ * 16; }
  __device__ uint32_t Empty() const { return Full() + 8; }
  __device__ uint32_t phase() const { return phase_; }
  __device__ void Advance() { Advance(1); }
  // From K or V of a page to that of the next.
  __device__ void AdvancePage() { Advance(2); }

 private:
  __device__ void Advance(int slots) {
    slot_ += slots;
    if (slot_ >= slots_) {
      slot_ -= slots_;
      phase_ ^= 1;
    }
  }

  // Else the compiler works an address of shared memory out again, from a slow special register,
  // wherever it is used.
  static __device__ uint32_t Opaque(uint32_t address) {
    asm volatile("" : "+r"(address));
    return address;
  }

  uint32_t blocks_;
  uint32_t barriers_;
  int slots_;
  int slot_ = 0;
  uint32_t phase_ = 0;
};

// Warps set the ring's barriers up for each other and wait for them no sooner than they use them:
// consumers for those of the first two slots, the feeding warp for all others.
inline constexpr int kFirstSlotsReady = 3;
inline constexpr int kRingReady = 4;

// A slot of the ring is free once every warp has read it.
inline constexpr int kArrivalsToFree = kConsumerWarps * kArrivalsAWarp;

// What the cluster's other CTAs count their stores on.
__device__ inline void InitMergeBarriers(uint64_t (&barriers)[2]) {
  for (uint64_t& barrier : barriers) InitBarrier(SharedAddress(&barrier), 1);
}

// Ahead of all that follows the set-up of barriers. racecheck does not follow an order through a
// barrier at which one side only arrives, either.
template <int kClusterSize>
__device__ void StartForSanitizer(uint64_t (&merge_barriers)[2]) {
  if constexpr (kForSanitizer) {
    if (kClusterSize > 1) {
      if (threadIdx.x == 0) InitMergeBarriers(merge_barriers);
      FenceCopyEngine();
      __syncwarp();
      MeetForSanitizer();
    }
    __syncthreads();
  }
}

// This rank's share of a segment's pages: every kClusterSize-th, so that where its pages lie in the
// block table does not hang on how many there are.
template <int kClusterSize>
struct RankPages {
  int first;  // of the pages that the rows see
  int count;
  __device__ RankPages(const Segment& segment, int rank)
      : first(segment.begin_page + rank),
        count((segment.end_page - first + kClusterSize - 1) / kClusterSize) {}
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SHARED_CUH_
