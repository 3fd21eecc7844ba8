// The warps of a CTA that read its ring, merge with the cluster's others and deliver the result
// (decode_sm90.cuh).
//
// Thread safety: device code, of kConsumerThreads threads.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CONSUMER_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CONSUMER_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_merge.cuh"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_shared.cuh"
#include "kernels/cuda/parallax_attention/decode_tile.cuh"
#include "kernels/cuda/parallax_attention/probe_state.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/cuda/ptx/ptx_sm90.cuh"
#include "kernels/cuda/ptx/warp_arrival.cuh"

namespace parallax::kernels::cuda {

template <int kDim, int kTiles, int kClusterSize>
class DecodeConsumer {
 public:
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  using Writer = UnitWriter<kDim, kTiles, kClusterSize>;

  __device__ DecodeConsumer(const DecodeArgs& args, Shared& shared, int slice, int rank)
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

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_CONSUMER_CUH_
