// The warp of a CTA that feeds its ring with pages (decode_sm90.cuh).
//
// Thread safety: device code, of all threads that construct one and of one warp that runs it.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PRODUCER_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PRODUCER_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_shared.cuh"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/for_sanitizer.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

// Ahead of all reads of what earlier kernels write. Beside a kernel that lets this one start when
// those are complete, there is nothing to wait for.
__device__ inline void WaitForInputs(const DecodeArgs& args) {
  if (!args.beside_preceding) WaitForPrecedingKernel();
}

template <int kDim, int kTiles, int kClusterSize>
class DecodeProducer {
 public:
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;

  // Sends for the block table of the slice's first sequence, not knowing yet which that is nor how
  // long: a guess that is right where slices are whole units and no window hides their beginning.
  __device__ DecodeProducer(const DecodeArgs& args, Shared& shared, int slice, int rank)
      : args_(args),
        rank_(rank),
        ring_(shared.ring, shared.besides.ring_barriers, args.ring_slots) {
    guess_ = min(static_cast<int>(args.units_a_sequence.Divide(slice)), args.batch - 1);
    if (threadIdx.x < kConsumerThreads) return;
    const int block = rank + lane() * kClusterSize;
    if (block < args.max_blocks) guessed_ = args.block_tables[guess_ * args.max_blocks + block];
    if (lane() == 1) ring_.Advance();
  }

  // Reads the slice's segments, of which `segment` is the first, if there is `more` than none.
  __device__ void Run(Segment& segment, bool more, SegmentWalker& walker,
                      uint64_t (&merge_barriers)[2]) {
    for (; more; more = walker.Next(segment)) {
      ReadSegment(segment);
      if constexpr (kClusterSize > 1) ShowMergeBarriers(merge_barriers);
    }
    if (!has_ring_) AwaitRing();
    if constexpr (kClusterSize > 1) {
      ShowMergeBarriers(merge_barriers);
      AwaitPeers();
    }
  }

 private:
  static __device__ int lane() { return threadIdx.x % 32; }

  __device__ void AwaitRing() {
    NamedBarrier<kRingReady, kDecodeThreads>();
    has_ring_ = true;
  }

  // Shows the cluster's other CTAs the barriers that they count their stores on, once. The release
  // takes 600 cycles or more, which pass while the first segment's last pages are on their way;
  // peers store no sooner than they have read theirs.
  __device__ void ShowMergeBarriers(uint64_t (&barriers)[2]) {
    if (kForSanitizer || has_shown_) return;
    has_shown_ = true;
    if (lane() == 0) InitMergeBarriers(barriers);
    FenceCopyEngine();
    __syncwarp();
    ArriveAtPeers();
  }

  __device__ void ReadSegment(const Segment& segment) {
    const RankPages<kClusterSize> pages(segment, rank_);
    const int first_block = segment.span.first_page + pages.first;
    const int32_t* const table =
        args_.block_tables + segment.sequence * args_.max_blocks + first_block;
    // This rank's pages that hold no key of the call's own tokens.
    const int new_page = (segment.span.context - segment.span.query_len) / kPageSize;
    const int old_pages = (new_page - first_block + kClusterSize - 1) / kClusterSize;
    const auto page_of_lane = [&](int first) {
      return first + lane() < pages.count ? table[(first + lane()) * kClusterSize] : 0;
    };
    const bool guessed = segment.sequence == guess_ && first_block == rank_;
    int next_pages = guessed ? guessed_ : page_of_lane(0);
    for (int first = 0; first < pages.count;) {
      int group_end = min(first + 32, pages.count);
      if (first < old_pages) {
        group_end = min(group_end, old_pages);
      } else {
        WaitForInputs(args_);
      }
      const __nv_bfloat16* const blocks =
          args_.cache +
          (int64_t{next_pages} * 2 * args_.num_kv_heads + segment.kv_head) * (kPageSize * kDim);
      // Of the slice's first page only the barriers that this warp has set up are needed.
      const bool is_first_page = !has_ring_;
      if (is_first_page) {
        Send(__shfl_sync(~0u, reinterpret_cast<uint64_t>(blocks), 0));
        AwaitRing();
      }
      next_pages = page_of_lane(group_end);
      ReadGroup(blocks, is_first_page ? 1 : 0, group_end - first);
      first = group_end;
    }
  }

  // Lane 0 reads K and lane 1 V, each on its own way around the ring, every second slot. One warp
  // that reads block after block would be the slowest where a CTA has an SM for itself.
  __device__ void ReadGroup(const __nv_bfloat16* k_block_of_lane, int begin, int end) {
#pragma unroll 1
    for (int i = begin; i < end; ++i) {
      const uint64_t k_block = __shfl_sync(~0u, reinterpret_cast<uint64_t>(k_block_of_lane), i);
      if constexpr (kForSanitizer) {
        SendInTurn(k_block);
      } else {
        if (lane() < 2) Wait(ring_.Empty(), ring_.phase() ^ 1);
        Send(k_block);
      }
    }
  }

  // Of the first two lanes, to free slots.
  __device__ void Send(uint64_t k_block) {
    if (lane() < 2) SendBlock(lane() == 1 ? k_block + ValueOffset() : k_block);
    ring_.AdvancePage();
  }

  // The same for racecheck, by one lane, once it has itself seen the slots freed.
  __device__ void SendInTurn(uint64_t k_block) {
    for (const uint64_t block : {k_block, k_block + ValueOffset()}) {
      if (lane() == 0) {
        Wait(ring_.Empty(), ring_.phase() ^ 1);
        SendBlock(block);
      }
      ring_.Advance();
    }
  }

  __device__ void SendBlock(uint64_t block) {
    ArriveExpect(ring_.Full(), Shape::kBlockBytes);
    BulkCopy(ring_.Block(), reinterpret_cast<const void*>(block), Shape::kBlockBytes, ring_.Full());
  }

  // From a page's K to its V.
  __device__ uint64_t ValueOffset() const {
    return uint64_t{Shape::kBlockBytes} * args_.num_kv_heads;
  }

  const DecodeArgs& args_;
  const int rank_;
  Ring<Shape::kBlockBytes> ring_;
  int guess_;        // sequence
  int guessed_ = 0;  // this lane's of this rank's first pages
  bool has_ring_ = false;
  bool has_shown_ = false;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_PRODUCER_CUH_
