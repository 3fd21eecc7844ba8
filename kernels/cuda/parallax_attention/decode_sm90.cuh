// The decode kernel for Hopper: bulk copies into a ring, clusters that merge through
// distributed shared memory.
//
// A cluster of kClusterSize CTAs takes a slice of the batch's pages (decode_plan.cuh); each CTA
// reads its share of every segment. In a CTA one warp feeds the ring and eight do the
// arithmetic (decode_tile.cuh). At a segment's end the CTAs scatter their states by dims, each
// merges one part, and either writes it out or, where the unit was cut, leaves it in global
// memory; the last cluster to do so merges those in slice order.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_merge.cuh"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_ptx.cuh"
#include "kernels/cuda/parallax_attention/decode_ptx_sm90.cuh"
#include "kernels/cuda/parallax_attention/decode_tile.cuh"
#include "kernels/cuda/parallax_attention/probe_state.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kDecodeThreads = kConsumerThreads + 32;
inline constexpr int kSharedBytesHopper = 227 * 1024;
inline constexpr int kMaxRingStages = 12;

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
  TileExchange<kTiles> exchange[2];
  ClusterInbox<kDim, kTiles, kClusterSize> inbox[2];
  MergeStorage<kTiles> merge;
  PlanStorage plan;
  uint64_t merge_barriers[2];
  uint64_t ring_barriers[4 * kMaxRingStages];
};

template <int kDim, int kTiles, int kClusterSize>
struct DecodeShared {
  using Besides = SharedBesidesRing<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  static constexpr int kStages =
      std::min(kMaxRingStages, (kSharedBytesHopper - 1024 - static_cast<int>(sizeof(Besides))) /
                                   (2 * Shape::kBlockBytes));
  static_assert(kStages >= 2);

  uint8_t ring[kStages][2][Shape::kBlockBytes];  // [stage][k|v]
  Besides besides;

  __device__ uint32_t Block(int stage, int k_or_v) const {
    return SharedAddress(ring[stage][k_or_v]);
  }
  __device__ uint32_t Full(int stage, int k_or_v) const {
    return SharedAddress(&besides.ring_barriers[stage * 4 + k_or_v]);
  }
  __device__ uint32_t Empty(int stage, int k_or_v) const {
    return SharedAddress(&besides.ring_barriers[stage * 4 + 2 + k_or_v]);
  }
};

// Where in the ring a CTA's n-th page goes.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
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

template <int kDim, int kTiles, int kClusterSize>
class Producer {
 public:
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;

  __device__ Producer(const DecodeArgs& args, Shared& shared, int rank)
      : args_(args), shared_(shared), rank_(rank) {}

  __device__ void ReadSegment(const Segment& segment) {
    const PageRange<kClusterSize> range(segment, rank_);
    const int lane = threadIdx.x % 32;
    const int32_t* const table =
        args_.block_tables + segment.sequence * args_.max_blocks + segment.span.first_page;
    const auto page_of_lane = [&](int first) {
      return first + lane < range.end ? table[first + lane] : 0;
    };
    int next_pages = page_of_lane(range.begin);
    for (int first = range.begin; first < range.end; first += 32) {
      const int pages = next_pages;
      next_pages = page_of_lane(first + 32);
      const int count = min(32, range.end - first);
      for (int i = 0; i < count; ++i) {
        ReadPage(__shfl_sync(~0u, pages, i), segment.kv_head);
      }
    }
  }

 private:
  __device__ void ReadPage(int page, int kv_head) {
    if (threadIdx.x % 32 == 0) {
      const int64_t k_block = int64_t{page} * 2 * args_.num_kv_heads + kv_head;
#pragma unroll
      for (int k_or_v = 0; k_or_v < 2; ++k_or_v) {
        const __nv_bfloat16* const source =
            args_.cache + (k_block + k_or_v * args_.num_kv_heads) * (kPageSize * kDim);
        Wait(shared_.Empty(position_.stage, k_or_v), position_.phase ^ 1);
        const uint32_t full = shared_.Full(position_.stage, k_or_v);
        ArriveExpect(full, Shape::kBlockBytes);
        BulkCopy(shared_.Block(position_.stage, k_or_v), source, Shape::kBlockBytes, full);
      }
    }
    position_.Advance();
  }

  const DecodeArgs& args_;
  Shared& shared_;
  const int rank_;
  RingPosition<Shared::kStages> position_;
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
        writer_(args, shared.besides.merge, slice, rank) {}

  __device__ void ReduceSegment(const Segment& segment) {
    LaneRows<kTiles> rows;
    LoadRows<kDim, kTiles>(args_, segment, query_, rows);
    state_.Clear();
    ReadPages(segment, rows);
    float4 scalars[kTiles];
    SumScalars(state_, shared_.besides.merge, scalars);
    if constexpr (kClusterSize > 1) {
      Scatter(scalars);
      MergeInbox(segment, rows);
    } else {
      typename Writer::Held held;
#pragma unroll
      for (int i = 0; i < Shape::kItemsHeld; ++i) {
        const float* const o = state_.o[i / Shape::kColumnTiles][i % Shape::kColumnTiles];
        held[i].scalars = scalars[i / Shape::kColumnTiles];
        held[i].outputs = make_float4(o[0], o[1], o[2], o[3]);
      }
      writer_.Deliver(segment, rows, held);
    }
  }

 private:
  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ int warp() { return threadIdx.x / 32; }

  __device__ void Release(uint32_t empty_barrier) {
    __syncwarp();
    if (lane() == 0) Arrive(empty_barrier);
  }

  // Scores of the page at k_position_, whose tops go to `exchange`.
  __device__ void ScorePage(const Segment& segment, const LaneRows<kTiles>& rows, int page,
                            TileExchange<kTiles>& exchange) {
    const int stage = k_position_.stage;
    Wait(shared_.Full(stage, 0), k_position_.phase);
    ComputeScores<kDim, kTiles>(scores_, query_, shared_.Block(stage, 0));
    Release(shared_.Empty(stage, 0));
    k_position_.Advance();
    const int page_key = (segment.span.first_page + page) * kPageSize;
    if (IsMasked(segment, page_key)) MaskScores<kTiles>(scores_, rows, page_key);
    PublishTop<kTiles>(scores_, args_.scale_log2, exchange);
  }

  __device__ void AddPage(const Segment& segment, int page, const TileExchange<kTiles>& exchange) {
    const int stage = v_position_.stage;
    const int page_key = (segment.span.first_page + page) * kPageSize;
    Wait(shared_.Full(stage, 1), v_position_.phase);
    const uint32_t v_block = shared_.Block(stage, 1);
    const ValueMask mask = {FirstKey(segment, 0) - page_key, segment.span.context - page_key};
    if (IsMasked(segment, page_key)) {
      AddValues<kDim, kTiles, true>(exchange, v_block, mask, state_);
    } else {
      AddValues<kDim, kTiles, false>(exchange, v_block, mask, state_);
    }
    Release(shared_.Empty(stage, 1));
    v_position_.Advance();
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

  // One barrier a page: the scores of a page are computed, and their maxima published, before
  // the barrier that the weights of the page before need anyway.
  __device__ void ReadPages(const Segment& segment, const LaneRows<kTiles>& rows) {
    const PageRange<kClusterSize> range(segment, rank_);
    if (range.begin == range.end) return;
    TileExchange<kTiles>* const exchange = shared_.besides.exchange;
    ScorePage(segment, rows, range.begin, exchange[0]);
    ConsumerBarrier();
    for (int page = range.begin; page < range.end; ++page) {
      const int parity = (page - range.begin) % 2;
      PublishWeights<kDim, kTiles>(scores_, args_.scale_log2, exchange[parity], exchange[parity],
                                   state_);
      if (page + 1 < range.end) ScorePage(segment, rows, page + 1, exchange[parity ^ 1]);
      ConsumerBarrier();
      AddPage(segment, page, exchange[parity]);
    }
  }

  // Sends this warp's items to the rank that merges their dims.
  __device__ void Scatter(const float4 (&scalars)[kTiles]) {
    constexpr int kWarpsARank = kConsumerWarps / kClusterSize;
    const uint32_t to = warp() / kWarpsARank;
    auto& inbox = shared_.besides.inbox[inbox_parity_];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (warp() % kWarpsARank == 0 && lane() % 4 == 0) {
        StoreRemote(RemoteAddress(SharedAddress(&inbox.scalars[rank_][t * 8 + lane() / 4]), to),
                    scalars[t]);
      }
#pragma unroll
      for (int c = 0; c < Shape::kColumnTiles; ++c) {
        const int item = warp() % kWarpsARank * Shape::kItemsAWarp + t * Shape::kColumnTiles + c;
        const float* const o = state_.o[t][c];
        StoreRemote(RemoteAddress(SharedAddress(&inbox.items[rank_][item][lane()]), to),
                    make_float4(o[0], o[1], o[2], o[3]));
      }
    }
    __syncwarp();
    if (lane() == 0) {
      ArriveRemote(
          RemoteAddress(SharedAddress(&shared_.besides.merge_barriers[inbox_parity_]), to));
    }
  }

  __device__ void MergeInbox(const Segment& segment, const LaneRows<kTiles>& rows) {
    const auto& inbox = shared_.besides.inbox[inbox_parity_];
    WaitCluster(SharedAddress(&shared_.besides.merge_barriers[inbox_parity_]), inbox_phase_);
    inbox_parity_ ^= 1;
    inbox_phase_ ^= inbox_parity_ ^ 1;
    typename Writer::Held held;
#pragma unroll
    for (int i = 0; i < Shape::kItemsHeld; ++i) {
      const int item = Writer::HeldItem(i);
      if (item >= Shape::kItems) break;
      const int row = Writer::TileOfItem(item) * 8 + lane() / 4;
      held[i] = MergeStates(
          kClusterSize, [&](int rank) { return inbox.scalars[rank][row]; },
          [&](int rank) { return inbox.items[rank][item][lane()]; });
    }
    writer_.Deliver(segment, rows, held);
  }

  const DecodeArgs& args_;
  Shared& shared_;
  const int rank_;
  Writer writer_;
  RingPosition<Shared::kStages> k_position_;
  RingPosition<Shared::kStages> v_position_;
  int inbox_parity_ = 0;
  uint32_t inbox_phase_ = 0;
  uint32_t query_[kTiles][kDim / 16][4];
  float scores_[kTiles][4];
  TileState<kDim, kTiles> state_;
};

template <int kDim, int kTiles, int kClusterSize>
__device__ void InitBarriers(DecodeShared<kDim, kTiles, kClusterSize>& shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < shared.kStages; ++stage) {
      for (int k_or_v = 0; k_or_v < 2; ++k_or_v) {
        InitBarrier(shared.Full(stage, k_or_v), 1);
        InitBarrier(shared.Empty(stage, k_or_v), kConsumerWarps);
      }
    }
    for (uint64_t& barrier : shared.besides.merge_barriers) {
      InitBarrier(SharedAddress(&barrier), kConsumerWarps);
    }
    FenceBarrierInit();
  }
}

template <int kDim, int kTiles, int kClusterSize>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    DecodeKernelSm90(const __grid_constant__ DecodeArgs args) {
  extern __shared__ uint8_t dynamic_shared[];
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared +
                                              (1024 - SharedAddress(dynamic_shared) % 1024) % 1024);
  const int rank = kClusterSize == 1 ? 0 : ClusterRank();
  const int slice = blockIdx.x / kClusterSize;

  InitBarriers(shared);
  if constexpr (kClusterSize > 1) ClusterArrive();
  WaitForPrecedingKernel();
  const DecodePlan plan = MakePlan<kClusterSize>(args, shared.besides.plan);
  LetNextKernelStart();

  Segment segment;
  SegmentWalker walker(args, plan, shared.besides.plan, slice);
  if (threadIdx.x >= kConsumerThreads) {
    Producer<kDim, kTiles, kClusterSize> producer(args, shared, rank);
    while (walker.Next(segment)) producer.ReadSegment(segment);
    if constexpr (kClusterSize > 1) ClusterWait();
  } else {
    if constexpr (kClusterSize > 1) ClusterWait();  // peers may be written to once all run
    Consumer<kDim, kTiles, kClusterSize> consumer(args, shared, slice, rank);
    while (walker.Next(segment)) consumer.ReduceSegment(segment);
  }
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_SM90_CUH_
