// From the warps' probe states to the output: summing a CTA's scalars, and writing a unit out,
// through global memory where it was cut between clusters.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_MERGE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_MERGE_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_tile.cuh"
#include "kernels/cuda/parallax_attention/probe_state.cuh"

namespace parallax::kernels::cuda {

// An item is 8 rows x 8 dims of o: a ProbePair::outputs a lane. A column is the items of 8 dims.
template <int kDim, int kTiles, int kClusterSize>
struct DecodeShape {
  // A page of short rows takes a warp longer than its bytes take, in waits for one result after
  // another: then the scores of a page are computed while the values of the one before are added.
  static constexpr bool kScoresAhead = kDim == 64;
  // And pages are taken by two, in clusters. It takes slots of the ring: with those of two CTAs
  // that share an SM it was slower.
  static constexpr bool kPairsPages = kScoresAhead && kTiles == 1 && kClusterSize > 1;

  // Of pairs: from the values of two pages to the keys of the two ahead are six slots, and the
  // feeding warp waits for both slots of a page before it sends for either.
  static constexpr int kMinRingSlots = kPairsPages ? 7 : 3;

  // CTAs that share an SM: two, so that one reads while the other starts or ends a unit; but the
  // state of two tiles needs the registers of a whole SM, and clusters of 8 and pairs of pages its
  // shared memory.
  static constexpr int kCtasPerSm = kTiles == 1 && kClusterSize < 8 && !kPairsPages ? 2 : 1;

  static constexpr int kColumns = kDim / 8;
  static constexpr int kWarpColumns = kColumns / kConsumerWarps;  // once warps are merged
  static constexpr int kRankColumns = kColumns / kClusterSize;    // once ranks are merged
  static constexpr int kItems = kTiles * kRankColumns;            // of one rank: [tile][column]
  // A rank's merged items are dealt out over its warps.
  static constexpr int kItemsHeld =
      kClusterSize == 1 ? kTiles * kWarpColumns : (kItems + kConsumerWarps - 1) / kConsumerWarps;
  static constexpr int kRows = kTiles * 8;
  static constexpr int kBlockBytes = kPageSize * kDim * 2;
  // float4s of a rank's partial state in global memory: scalars, then items.
  static constexpr int kPartialSize = kRows + kItems * 32;
};

// Where the warps of a CTA leave the columns that others merge.
template <int kDim, int kTiles>
struct WarpItems {
  static constexpr int kColumns = kDim / 8 / kConsumerWarps;
  float4 items[kConsumerWarps][kConsumerWarps - 1][kTiles][kColumns][32];

  // Of warp `from` for warp from ^ other, other > 0.
  __device__ float4 (&Of(int from, int other))[kTiles][kColumns][32] {
    return items[from][other - 1];
  }
};

template <int kTiles>
struct WarpScalars {
  float4 rows[kConsumerWarps][kTiles * 8];  // max, centre, d1, d2
};

// Sums the warps' states: every lane gets its rows' scalars, warp w the columns
// w * kColumns .. of o. A barrier precedes the next use of `items`.
template <int kDim, int kTiles>
__device__ void MergeWarps(const TileState<kDim, kTiles>& state, WarpScalars<kTiles>& scalars,
                           WarpItems<kDim, kTiles>& items, float4 (&merged)[kTiles],
                           float4 (&outputs)[kTiles][kDim / 8 / kConsumerWarps]) {
  constexpr int kColumns = kDim / 8 / kConsumerWarps;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int other = 1; other < kConsumerWarps; ++other) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        items.Of(warp, other)[t][c][lane] = state.Item(t, other * kColumns + c);
      }
    }
    float d1 = state.d1[t];
    float d2 = state.d2[t];
#pragma unroll
    for (int delta = 1; delta < 4; delta *= 2) {
      d1 += __shfl_xor_sync(~0u, d1, delta);
      d2 += __shfl_xor_sync(~0u, d2, delta);
    }
    if (lane % 4 == 0) {
      scalars.rows[warp][t * 8 + lane / 4] = make_float4(state.max[t], state.centre[t], d1, d2);
    }
  }
  ConsumerBarrier();
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    float4 parts[kConsumerWarps];  // this warp's own first
#pragma unroll
    for (int other = 0; other < kConsumerWarps; ++other) {
      parts[other] = scalars.rows[warp ^ other][t * 8 + lane / 4];
    }
    const RowMerge<kConsumerWarps> merge(parts);
    merged[t] = merge.scalars();
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      outputs[t][c] = {0.0f, 0.0f, 0.0f, 0.0f};
      merge.Add(outputs[t][c], 0, state.Item(t, c));
#pragma unroll
      for (int other = 1; other < kConsumerWarps; ++other) {
        merge.Add(outputs[t][c], other, items.Of(warp ^ other, other)[t][c][lane]);
      }
    }
  }
}

// Adds 1, after all that this CTA wrote before its last barrier and before all that it reads after
// its next one.
__device__ inline uint32_t IncrementInOrder(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(counter)
               : "memory");
  return before;
}

// The units that a slice shares with others: at most its first and its last.
struct CutUnits {
  Segment segments[2];
  bool is_last[2];
};

// Writes one rank's part of units.
template <int kDim, int kTiles, int kClusterSize>
class UnitWriter {
 public:
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  using Held = ProbePair[Shape::kItemsHeld];

  // `stage`: the ring's shared memory, free once the slice's pages have been read.
  __device__ UnitWriter(const DecodeArgs& args, CutUnits& cut, float4* stage, int slice, int rank)
      : args_(args), cut_(cut), stage_(stage), slice_(slice), rank_(rank) {}

  // Which of the rank's items this warp holds i-th; may be beyond the last.
  static __device__ int HeldItem(int i) {
    if (kClusterSize > 1) return i * kConsumerWarps + warp();
    return i / Shape::kWarpColumns * Shape::kRankColumns + warp() * Shape::kWarpColumns +
           i % Shape::kWarpColumns;
  }
  static __device__ int TileOfItem(int item) { return item / Shape::kRankColumns; }

  // Writes a whole unit out; leaves the part of a cut one in global memory.
  __device__ void Deliver(const Segment& segment, const LaneRows<kTiles>& rows, const Held& held) {
    if (!segment.IsCut()) {
      WriteOut(rows, held);
      return;
    }
    StorePartial(segment, rows, held);
    if (threadIdx.x == 0) cut_.segments[num_cut_] = segment;
    ++num_cut_;
  }

  // After the slice's last segment: the last CTA of this rank to leave its part of a unit merges
  // the parts and writes the unit out.
  __device__ void FinishCutUnits() {
    if (num_cut_ == 0) return;
    ConsumerBarrier();
    if (static_cast<int>(threadIdx.x) < num_cut_) {
      const Segment& segment = cut_.segments[threadIdx.x];
      uint32_t* const counter = &args_.counters[segment.first_slice * kClusterSize + rank_];
      const uint32_t parts = segment.last_slice - segment.first_slice + 1;
      const bool is_last = IncrementInOrder(counter) == parts - 1;
      if (is_last) *counter = 0;  // for the next launch
      cut_.is_last[threadIdx.x] = is_last;
    }
    ConsumerBarrier();
    for (int i = 0; i < num_cut_; ++i) {
      if (!cut_.is_last[i]) continue;
      const Segment segment = cut_.segments[i];
      const LaneRows<kTiles> rows = RowsOfLane<kTiles>(args_, segment, kDim);
      Held held;
      MergePartials(segment, held);
      WriteOut(rows, held);
    }
  }

 private:
  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ int warp() { return threadIdx.x / 32; }

  __device__ float4* Partial(int slice, bool continued) const {
    return args_.partials + ((int64_t{slice} * 2 + (continued ? 1 : 0)) * kClusterSize + rank_) *
                                Shape::kPartialSize;
  }

  __device__ void WriteOut(const LaneRows<kTiles>& rows, const Held& held) const {
#pragma unroll
    for (int i = 0; i < Shape::kItemsHeld; ++i) {
      const int item = HeldItem(i);
      const int column = rank_ * Shape::kRankColumns + item % Shape::kRankColumns;
      const float2 out = Finish(held[i]);
      const uint32_t packed = PackBFloat16(out.x, out.y);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (item >= Shape::kItems || t != TileOfItem(item) || rows.end_key[t] == 0) continue;
        *reinterpret_cast<uint32_t*>(args_.out + rows.out_offset[t] + column * 8 + lane() % 4 * 2) =
            packed;
      }
    }
  }

  __device__ void StorePartial(const Segment& segment, const LaneRows<kTiles>& rows,
                               const Held& held) const {
    float4* const partial = Partial(slice_, slice_ == segment.first_slice);
#pragma unroll
    for (int i = 0; i < Shape::kItemsHeld; ++i) {
      const int item = HeldItem(i);
      if (item >= Shape::kItems) continue;
      if (item % Shape::kRankColumns == 0 && lane() % 4 == 0) {
        __stcg(&partial[TileOfItem(item) * 8 + lane() / 4], held[i].scalars);
      }
      __stcg(&partial[Shape::kRows + item * 32 + lane()], held[i].outputs);
    }
  }

  // Brings parts near, as many as `stage_` holds at once, and folds them.
  __device__ void MergePartials(const Segment& segment, Held& held) const {
    constexpr int kPartialBytes = Shape::kPartialSize * sizeof(float4);
    const int most_staged = args_.ring_slots * Shape::kBlockBytes / kPartialBytes;
    // An item beyond the last reads what the first warp does.
    const auto item_of = [](int i) { return HeldItem(i) < Shape::kItems ? HeldItem(i) : 0; };
    const int parts = segment.last_slice - segment.first_slice + 1;
    for (int first = 0; first < parts; first += most_staged) {
      const int count = min(most_staged, parts - first);
      for (int x = threadIdx.x; x < count * Shape::kPartialSize; x += kConsumerWarps * 32) {
        const int part = first + x / Shape::kPartialSize;
        CopyAsync(SharedAddress(&stage_[x]),
                  Partial(segment.first_slice + part, part == 0) + x % Shape::kPartialSize);
      }
      WaitForCopies();
      ConsumerBarrier();
      MergeStates<Shape::kItemsHeld <= 2 ? 4 : 2>(
          count,
          [&](int part, int i) {
            return stage_[part * Shape::kPartialSize + TileOfItem(item_of(i)) * 8 + lane() / 4];
          },
          [&](int part, int i) {
            return stage_[part * Shape::kPartialSize + Shape::kRows + item_of(i) * 32 + lane()];
          },
          held);
      ConsumerBarrier();
    }
  }

  const DecodeArgs& args_;
  CutUnits& cut_;        // shared memory
  float4* const stage_;  // shared memory
  const int slice_;
  const int rank_;
  int num_cut_ = 0;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_MERGE_CUH_
