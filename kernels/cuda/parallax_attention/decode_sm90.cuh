// The decode kernel for Hopper: bulk copies into a ring, clusters that merge through
// distributed shared memory.
//
// A cluster of kClusterSize CTAs takes a slice of the batch's pages (decode_plan.cuh); each CTA
// reads its share of every segment. In a CTA one warp feeds the ring and four do the
// arithmetic (decode_tile.cuh). At a segment's end the CTAs scatter their states by
// dims, each merges one part, and either writes it out or, where the unit was cut, leaves it in
// global memory; the last cluster to do so merges those in slice order.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_merge.cuh"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_shared.cuh"
#include "kernels/cuda/parallax_attention/decode_tile.cuh"
#include "kernels/cuda/parallax_attention/probe_state.cuh"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"

namespace parallax::kernels::cuda {

// Warps set the ring's barriers up for each other and wait for them no sooner than they use them:
// consumers for those of the first two slots, the feeding warp for all others.
inline constexpr int kFirstSlotsReady = 3;
inline constexpr int kRingReady = 4;

// Ahead of all reads of what earlier kernels write. Beside a kernel that lets this one start when
// those are complete, there is nothing to wait for.
__device__ inline void WaitForInputs(const DecodeArgs& args) {
  if (!args.beside_preceding) WaitForPrecedingKernel();
}

// At a CTA's end. A grid is complete when all of its CTAs are: the last one, which has none behind
// it that waits for its place, keeps this grid from completing before the kernel that it runs
// beside.
__device__ inline void EndAfterPreceding(const DecodeArgs& args) {
  if (args.beside_preceding && blockIdx.x == gridDim.x - 1) WaitForPrecedingKernel();
}

template <int kDim, int kTiles, int kClusterSize>
class Producer {
 public:
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;

  // Sends for the block table of the slice's first sequence, not knowing yet which that is nor how
  // long: a guess that is right where slices are whole units and no window hides their beginning.
  __device__ Producer(const DecodeArgs& args, Shared& shared, int slice, int rank)
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

template <int kDim, int kTiles, int kClusterSize>
class Consumer {
 public:
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  using Writer = UnitWriter<kDim, kTiles, kClusterSize>;

  __device__ Consumer(const DecodeArgs& args, Shared& shared, int slice, int rank)
      : args_(args),
        shared_(shared),
        rank_(rank),
        ring_(shared.ring, shared.besides.ring_barriers, args.ring_slots),
        writer_(args, shared.besides.cut, reinterpret_cast<float4*>(shared.ring), slice, rank) {}

  // Reads the slice's segments, of which `segment` is the first, if there is `more` than none.
  __device__ void Run(Segment& segment, bool more, SegmentWalker& walker) {
    if (more) SendForQueries(args_, segment, Queries(0));
    NamedBarrier<kFirstSlotsReady, kDecodeThreads>();
    for (; more; ++segment_) {
      const Segment& current = shared_.besides.segments[segment_ % 2];
      if (threadIdx.x == 0) shared_.besides.segments[segment_ % 2] = segment;
      WaitForCopies();
      ConsumerBarrier();
      query_.Load(Queries(segment_));
      if (kTiles == 1) ConsumerBarrier();  // the next queries take the place of these
      more = walker.Next(segment);
      if (more) SendForQueries(args_, segment, Queries(segment_ + 1));
      ReduceSegment(current, Queries(segment_));
    }
    Finish();
  }

 private:
  __device__ QueryTile<kDim, kTiles>& Queries(uint32_t n) {
    return shared_.besides.queries[n % kTiles];
  }

  __device__ void ReduceSegment(const Segment& segment, QueryTile<kDim, kTiles>& queries) {
    auto& besides = shared_.besides;
    const LaneRows<kTiles> rows = RowsOfLane<kTiles>(args_, segment, kDim);
    state_.Clear();
    ReadPages(segment, rows, queries);
    float4 scalars[kTiles];
    float4 outputs[kTiles][Shape::kWarpColumns];
    MergeWarps(state_, besides.warp_scalars, besides.warp_items, scalars, outputs);
    if constexpr (kClusterSize > 1) {
      if (segment_ == 0) AwaitPeers();
      Scatter(scalars, outputs);
      MergeInbox(segment, rows);
    } else {
      typename Writer::Held held;
#pragma unroll
      for (int i = 0; i < Shape::kItemsHeld; ++i) {
        const int tile = i / Shape::kWarpColumns;
        held[i] = {scalars[tile], outputs[tile][i % Shape::kWarpColumns]};
      }
      writer_.Deliver(segment, rows, held);
    }
  }

  __device__ void Finish() {
    if (kClusterSize > 1 && segment_ == 0) AwaitPeers();
    writer_.FinishCutUnits();
  }

  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ int warp() { return threadIdx.x / 32; }

  using PageRing = Ring<Shape::kBlockBytes>;

  // The next block of the ring, once it is there.
  static __device__ uint32_t Acquire(const PageRing& ring) {
    Wait(ring.Full(), ring.phase());
    return ring.Block();
  }
  static __device__ void Release(const PageRing& ring) { ArriveAsWarp(ring.Empty()); }

  // The first key that the sequence's row sees.
  __device__ int FirstKey(const Segment& segment, int row) const {
    if (args_.sliding_window == 0) return 0;
    const int position = segment.span.context - segment.span.query_len + row;
    return max(0, position - args_.sliding_window + 1);
  }

  __device__ void ReadPages(const Segment& segment, const LaneRows<kTiles>& rows,
                            QueryTile<kDim, kTiles>& queries) {
    const RankPages<kClusterSize> pages(segment, rank_);
    if (pages.count == 0) return;
    constexpr int kStep = kClusterSize * kPageSize;
    // Every row sees the keys [all_begin, all_end).
    const int all_begin = FirstKey(segment, segment.span.query_len - 1);
    const int all_end = segment.span.context - segment.span.query_len + 1;
    int page_key = (segment.span.first_page + pages.first) * kPageSize;
    WarpScores<kTiles> scores[1];
    bool has_scores = false;
#pragma unroll 1
    for (int pages_left = pages.count; pages_left > 0; --pages_left) {
      const bool masked = page_key < all_begin || page_key + kPageSize > all_end;
      if constexpr (Shape::kPairsPages) {
        const int unmasked = masked ? 0 : (all_end - kPageSize - page_key) / kStep + 1;
        const int pairs = min(pages_left, unmasked) / 2;
        if (pairs > 0) {
          ReadPairs(pairs, queries);
          page_key += pairs * 2 * kStep;
          pages_left -= pairs * 2 - 1;
          continue;
        }
      }
      if (!has_scores) {
        ComputeScores(scores[0], query_, queries, offsets_, Acquire(ring_));
        Release(ring_);
        ring_.Advance();
      }
      if (masked) MaskScores<kTiles>(scores[0], rows, page_key);
      PageWeights<kTiles> weights[1];
      ComputeWeights(scores, args_.scale_log2, state_, weights);
      has_scores = Shape::kScoresAhead && !Shape::kPairsPages && !masked && pages_left > 1;
      if (has_scores) {
        AddPageAndScoreNext(weights, scores, queries);
      } else {
        AddPage(segment, weights[0], page_key, masked);
      }
      page_key += kStep;
    }
  }

  __device__ void AddPage(const Segment& segment, const PageWeights<kTiles>& weights, int page_key,
                          bool masked) {
    const uint32_t v_block = Acquire(ring_);
    if (masked) {
      const ValueMask mask = {FirstKey(segment, 0) - page_key, segment.span.context - page_key};
      AddValues<kDim, kTiles, true>(weights, offsets_, v_block, mask, state_);
    } else {
      AddValues<kDim, kTiles, false>(weights, offsets_, v_block, {}, state_);
    }
    Release(ring_);
    ring_.Advance();
  }

  __device__ void AddPageAndScoreNext(const PageWeights<kTiles> (&weights)[1],
                                      WarpScores<kTiles> (&scores)[1],
                                      QueryTile<kDim, kTiles>& queries) {
    const PageRing v_ring = ring_;
    const uint32_t v_blocks[1] = {Acquire(ring_)};
    ring_.Advance();
    const uint32_t k_blocks[1] = {Acquire(ring_)};
    AddValuesAndComputeScores(weights, offsets_, v_blocks, state_, scores, query_, queries,
                              k_blocks);
    Release(v_ring);
    Release(ring_);
    ring_.Advance();
  }

  // Pages without masks. REQUIRES: pairs > 0.
  __device__ void ReadPairs(int pairs, QueryTile<kDim, kTiles>& queries) {
    PageRing v_ring = ring_;
    v_ring.Advance();
    WarpScores<kTiles> scores[2];
#pragma unroll
    for (WarpScores<kTiles>& of_page : scores) {
      ComputeScores(of_page, query_, queries, offsets_, Acquire(ring_));
      Release(ring_);
      ring_.AdvancePage();
    }
    PageWeights<kTiles> weights[2];
#pragma unroll 1
    for (; pairs > 1; --pairs) {
      ComputeWeights(scores, args_.scale_log2, state_, weights);
      AddPairAndScoreNext(weights, v_ring, scores, queries);
    }
    ComputeWeights(scores, args_.scale_log2, state_, weights);
#pragma unroll
    for (const PageWeights<kTiles>& of_page : weights) {
      AddValues<kDim, kTiles, false>(of_page, offsets_, Acquire(v_ring), {}, state_);
      Release(v_ring);
      v_ring.AdvancePage();
    }
  }

  __device__ void AddPairAndScoreNext(const PageWeights<kTiles> (&weights)[2], PageRing& v_ring,
                                      WarpScores<kTiles> (&scores)[2],
                                      QueryTile<kDim, kTiles>& queries) {
    PageRing next_k = ring_;
    PageRing next_v = v_ring;
    next_k.AdvancePage();
    next_v.AdvancePage();
    const uint32_t v_blocks[2] = {Acquire(v_ring), Acquire(next_v)};
    const uint32_t k_blocks[2] = {Acquire(ring_), Acquire(next_k)};
    AddValuesAndComputeScores(weights, offsets_, v_blocks, state_, scores, query_, queries,
                              k_blocks);
    Release(v_ring);
    Release(next_v);
    Release(ring_);
    Release(next_k);
    v_ring = next_v;
    ring_ = next_k;
    v_ring.AdvancePage();
    ring_.AdvancePage();
  }

  // Sends this warp's columns to the ranks that merge them.
  __device__ void Scatter(const float4 (&scalars)[kTiles],
                          const float4 (&outputs)[kTiles][Shape::kWarpColumns]) {
    auto& inbox = shared_.besides.inbox[segment_ % 2];
    const uint32_t barrier = SharedAddress(&shared_.besides.merge_barriers[segment_ % 2]);
    if (threadIdx.x == 0) ArriveExpect(barrier, sizeof(inbox));
    const int first_column = warp() * Shape::kWarpColumns;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int c = 0; c < Shape::kWarpColumns; ++c) {
        const uint32_t to = (first_column + c) / Shape::kRankColumns;
        const int column = (first_column + c) % Shape::kRankColumns;
        const int item = t * Shape::kRankColumns + column;
        const uint32_t remote_barrier = RemoteAddress(barrier, to);
        StoreRemote(RemoteAddress(SharedAddress(&inbox.items[rank_][item][lane()]), to),
                    outputs[t][c], remote_barrier);
        if (column == 0 && lane() % 4 == 0) {
          StoreRemote(RemoteAddress(SharedAddress(&inbox.scalars[rank_][t * 8 + lane() / 4]), to),
                      scalars[t], remote_barrier);
        }
      }
    }
  }

  __device__ void MergeInbox(const Segment& segment, const LaneRows<kTiles>& rows) {
    const auto& inbox = shared_.besides.inbox[segment_ % 2];
    WaitCluster(SharedAddress(&shared_.besides.merge_barriers[segment_ % 2]), segment_ / 2 % 2);
    typename Writer::Held held;
    const auto item_of = [](int i) {
      return Writer::HeldItem(i) < Shape::kItems ? Writer::HeldItem(i) : 0;
    };
#pragma unroll
    for (int i = 0; i < Shape::kItemsHeld; ++i) {
      const int item = item_of(i);
      float4 parts[kClusterSize];
#pragma unroll
      for (int rank = 0; rank < kClusterSize; ++rank) {
        parts[rank] = inbox.scalars[rank][Writer::TileOfItem(item) * 8 + lane() / 4];
      }
      const RowMerge<kClusterSize> merge(parts);
      held[i].scalars = merge.scalars();
#pragma unroll
      for (int rank = 0; rank < kClusterSize; ++rank) {
        merge.Add(held[i].outputs, rank, inbox.items[rank][item][lane()]);
      }
    }
    writer_.Deliver(segment, rows, held);
  }

  const DecodeArgs& args_;
  Shared& shared_;
  const int rank_;
  PageRing ring_;
  Writer writer_;
  uint32_t segment_ = 0;  // of the slice, counted: buffers of two alternate by it
  const LaneOffsets<kDim> offsets_;
  QueryFragments<kDim, kTiles> query_;
  TileState<kDim, kTiles> state_;
};

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
  Producer<kDim, kTiles, kClusterSize> producer(args, shared, slice, rank);
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
    Consumer<kDim, kTiles, kClusterSize> consumer(args, shared, slice, rank);
    WaitForInputs(args);
    consumer.Run(segment, more, walker);
  }
  EndAfterPreceding(args);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_
