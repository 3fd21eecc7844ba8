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
#include "kernels/cuda/parallax_attention/decode_ptx.cuh"
#include "kernels/cuda/parallax_attention/decode_ptx_sm90.cuh"
#include "kernels/cuda/parallax_attention/decode_shared.cuh"
#include "kernels/cuda/parallax_attention/decode_tile.cuh"
#include "kernels/cuda/parallax_attention/probe_state.cuh"
#include "kernels/cuda/programmatic_launch.cuh"

namespace parallax::kernels::cuda {

template <int kDim, int kTiles, int kClusterSize>
class Producer {
 public:
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;

  // Sends for the block table of the slice's first sequence, not knowing yet which that is: a
  // guess that is right where slices are whole units.
  __device__ Producer(const DecodeArgs& args, Shared& shared, int slice, int rank)
      : args_(args), shared_(shared), rank_(rank) {
    guess_ = min(static_cast<int>(args.units_a_sequence.Divide(slice * args.units_a_cluster)),
                 args.batch - 1);
    const int lane = threadIdx.x % 32;
    if (lane < args.max_blocks) guessed_ = args.block_tables[guess_ * args.max_blocks + lane];
  }

  __device__ void ReadSegment(const Segment& segment) {
    const PageRange<kClusterSize> range(segment, rank_);
    const int lane = threadIdx.x % 32;
    const int32_t* const table = args_.block_tables + segment.sequence * args_.max_blocks;
    const int begin = segment.span.first_page + range.begin;
    const int end = segment.span.first_page + range.end;
    const auto page_of_lane = [&](int first) {
      return first + lane < end ? table[first + lane] : 0;
    };
    int next_pages = segment.sequence == guess_ && end <= 32
                         ? __shfl_sync(~0u, guessed_, (begin + lane) % 32)
                         : page_of_lane(begin);
    for (int first = begin; first < end; first += 32) {
      const int pages = next_pages;
      next_pages = page_of_lane(first + 32);
      const int count = min(32, end - first);
      for (int i = 0; i < count; ++i) {
        ReadPage(__shfl_sync(~0u, pages, i), segment.kv_head);
      }
    }
  }

 private:
  __device__ void ReadPage(int page, int kv_head) {
    const int64_t k_block = int64_t{page} * 2 * args_.num_kv_heads + kv_head;
#pragma unroll
    for (int k_or_v = 0; k_or_v < 2; ++k_or_v) {
      if (threadIdx.x % 32 == 0) {
        const __nv_bfloat16* const source =
            args_.cache + (k_block + k_or_v * args_.num_kv_heads) * (kPageSize * kDim);
        Wait(shared_.Empty(position_.slot), position_.phase ^ 1);
        const uint32_t full = shared_.Full(position_.slot);
        ArriveExpect(full, Shape::kBlockBytes);
        BulkCopy(shared_.Block(position_.slot), source, Shape::kBlockBytes, full);
      }
      position_.Advance();
    }
  }

  const DecodeArgs& args_;
  Shared& shared_;
  const int rank_;
  int guess_;        // sequence
  int guessed_ = 0;  // this lane's of its first pages
  RingPosition<Shared::kSlots> position_;
};

template <int kDim, int kTiles, int kClusterSize>
class Consumer {
 public:
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  using Writer = UnitWriter<kDim, kTiles, kClusterSize, sizeof(Shared::ring)>;

  __device__ Consumer(const DecodeArgs& args, Shared& shared, int slice, int rank)
      : args_(args),
        shared_(shared),
        rank_(rank),
        writer_(args, shared.besides.cut, reinterpret_cast<float4*>(shared.ring), slice, rank) {}

  // Fetches a segment's queries; all warps are done with the segment before.
  __device__ void Prepare(const Segment& segment) {
    ConsumerBarrier();
    FillQueryTile(args_, segment, shared_.besides.query);
    ConsumerBarrier();
    query_.Load(shared_.besides.query);
  }

  __device__ void ReduceSegment(const Segment& segment) {
    auto& besides = shared_.besides;
    const LaneRows<kTiles> rows = RowsOfLane<kTiles>(args_, segment, kDim);
    state_.Clear();
    ReadPages(segment, rows);
    float4 scalars[kTiles];
    float4 outputs[kTiles][Shape::kWarpColumns];
    MergeWarps(state_, besides.warp_scalars, besides.warp_items, scalars, outputs);
    if constexpr (kClusterSize > 1) {
      if (first_) ClusterWait();  // peers may be written to once all run
      first_ = false;
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
    if (kClusterSize > 1 && first_) ClusterWait();
    writer_.FinishCutUnits();
  }

 private:
  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ int warp() { return threadIdx.x / 32; }

  // The next block of the ring, once it is there.
  __device__ uint32_t Acquire() {
    Wait(shared_.Full(position_.slot), position_.phase);
    return shared_.Block(position_.slot);
  }
  __device__ void Release() {
    __syncwarp();
    if (lane() == 0) Arrive(shared_.Empty(position_.slot));
    position_.Advance();
  }

  // The first key that the sequence's row sees.
  __device__ int FirstKey(const Segment& segment, int row) const {
    if (args_.sliding_window == 0) return 0;
    const int position = segment.span.context - segment.span.query_len + row;
    return max(0, position - args_.sliding_window + 1);
  }

  // Whether some row does not see some key of the page.
  __device__ bool IsMasked(const Segment& segment, int page_key) const {
    return page_key + kPageSize > segment.span.context - segment.span.query_len + 1 ||
           page_key < FirstKey(segment, segment.span.query_len - 1);
  }

  __device__ void ReadPages(const Segment& segment, const LaneRows<kTiles>& rows) {
    const PageRange<kClusterSize> range(segment, rank_);
#pragma unroll 1
    for (int page = range.begin; page < range.end; ++page) {
      const int page_key = (segment.span.first_page + page) * kPageSize;
      const bool masked = IsMasked(segment, page_key);
      WarpScores<kTiles> scores;
      ComputeScores(scores, query_, shared_.besides.query, Acquire());
      Release();
      if (masked) MaskScores<kTiles>(scores, rows, page_key);
      uint32_t weights[kTiles][4];
      ComputeWeights(scores, args_.scale_log2, state_, weights);
      const uint32_t v_block = Acquire();
      const ValueMask mask = {FirstKey(segment, 0) - page_key, segment.span.context - page_key};
      if (masked) {
        AddValues<kDim, kTiles, true>(weights, v_block, mask, state_);
      } else {
        AddValues<kDim, kTiles, false>(weights, v_block, mask, state_);
      }
      Release();
    }
  }

  // Sends this warp's columns to the ranks that merge them.
  __device__ void Scatter(const float4 (&scalars)[kTiles],
                          const float4 (&outputs)[kTiles][Shape::kWarpColumns]) {
    auto& inbox = shared_.besides.inbox[inbox_parity_];
    const uint32_t barrier = SharedAddress(&shared_.besides.merge_barriers[inbox_parity_]);
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
    const auto& inbox = shared_.besides.inbox[inbox_parity_];
    WaitCluster(SharedAddress(&shared_.besides.merge_barriers[inbox_parity_]), inbox_phase_);
    inbox_parity_ ^= 1;
    inbox_phase_ ^= inbox_parity_ ^ 1;
    typename Writer::Held held;
    const auto item_of = [](int i) {
      return Writer::HeldItem(i) < Shape::kItems ? Writer::HeldItem(i) : 0;
    };
    MergeStates<kClusterSize>(
        kClusterSize,
        [&](int rank, int i) {
          return inbox.scalars[rank][Writer::TileOfItem(item_of(i)) * 8 + lane() / 4];
        },
        [&](int rank, int i) { return inbox.items[rank][item_of(i)][lane()]; }, held);
    writer_.Deliver(segment, rows, held);
  }

  const DecodeArgs& args_;
  Shared& shared_;
  const int rank_;
  Writer writer_;
  RingPosition<Shared::kSlots> position_;
  bool first_ = true;
  int inbox_parity_ = 0;
  uint32_t inbox_phase_ = 0;
  QueryFragments<kDim, kTiles> query_;
  TileState<kDim, kTiles> state_;
};

// An mbarrier.init takes some 50 cycles, so the warps share them.
template <int kDim, int kTiles, int kClusterSize>
__device__ void InitBarriers(DecodeShared<kDim, kTiles, kClusterSize>& shared) {
  constexpr int kWarps = kDecodeThreads / 32;
  const int slot = threadIdx.x % 32 * kWarps + threadIdx.x / 32;
  if (slot < shared.kSlots) {
    InitBarrier(shared.Full(slot), 1);
    InitBarrier(shared.Empty(slot), kConsumerWarps);
  }
  if constexpr (kClusterSize > 1) {
    if (threadIdx.x == 0) {
      for (uint64_t& barrier : shared.besides.merge_barriers) {
        InitBarrier(SharedAddress(&barrier), 1);
      }
    }
  }
  FenceCopyEngine();
  __syncthreads();
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

  InitBarriers(shared);
  if constexpr (kClusterSize > 1) {
    if (threadIdx.x < 32) {
      ClusterArrive();
    } else {
      ClusterArriveRelaxed();
    }
  }
  LetNextKernelStart();
  WaitForPrecedingKernel();
  Producer<kDim, kTiles, kClusterSize> producer(args, shared, slice, rank);
  const DecodePlan plan = MakePlan<kClusterSize>(args, shared.besides.plan);
  Segment segment;
  SegmentWalker walker(args, plan, slice);
  if (threadIdx.x >= kConsumerThreads) {
    while (walker.Next(segment)) producer.ReadSegment(segment);
    if constexpr (kClusterSize > 1) ClusterWait();
  } else {
    Consumer<kDim, kTiles, kClusterSize> consumer(args, shared, slice, rank);
    bool more = walker.Next(segment);
    if (more) consumer.Prepare(segment);
    while (more) {
      consumer.ReduceSegment(segment);
      more = walker.Next(segment);
      if (more) consumer.Prepare(segment);
    }
    consumer.Finish();
  }
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_
