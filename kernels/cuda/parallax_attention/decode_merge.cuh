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

// An item is one warp's 8 rows x 8 dims of o: a ProbePair::outputs a lane.
template <int kDim, int kTiles, int kClusterSize>
struct DecodeShape {
  static constexpr int kColumnTiles = kDim / (8 * kConsumerWarps);
  static constexpr int kItemsAWarp = kTiles * kColumnTiles;
  static constexpr int kItems = kItemsAWarp * kConsumerWarps / kClusterSize;  // of one rank
  // After the merge in the cluster a rank's items are dealt out over its warps.
  static constexpr int kItemsHeld = (kItems + kConsumerWarps - 1) / kConsumerWarps;
  static constexpr int kRows = kTiles * 8;
  static constexpr int kBlockBytes = kPageSize * kDim * 2;
  // float4s of a rank's partial state in global memory: scalars, then items.
  static constexpr int kPartialSize = kRows + kItems * 32;
};

// What the warps of a CTA exchange at a segment's end.
template <int kTiles>
struct MergeStorage {
  alignas(16) float2 sums[kTiles * 8][10];  // [row][warp] d1, d2; padded as TileExchange::top
  bool is_last;
};

// The whole CTA's (max, centre, d1, d2) of this lane's rows.
template <int kDim, int kTiles>
__device__ void SumScalars(const TileState<kDim, kTiles>& state, MergeStorage<kTiles>& storage,
                           float4 (&scalars)[kTiles]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    float d1 = state.d1[t];
    float d2 = state.d2[t];
#pragma unroll
    for (int delta = 1; delta < 4; delta *= 2) {
      d1 += __shfl_xor_sync(~0u, d1, delta);
      d2 += __shfl_xor_sync(~0u, d2, delta);
    }
    if (lane % 4 == 0) storage.sums[t * 8 + lane / 4][threadIdx.x / 32] = make_float2(d1, d2);
  }
  ConsumerBarrier();
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    scalars[t] = make_float4(state.max[t], state.centre[t], 0.0f, 0.0f);
    const float4* const row = reinterpret_cast<const float4*>(storage.sums[t * 8 + lane / 4]);
#pragma unroll
    for (int pair = 0; pair < kConsumerWarps / 2; ++pair) {
      const float4 two = row[pair];
      scalars[t].z += two.x + two.z;
      scalars[t].w += two.y + two.w;
    }
  }
}

// Writes one rank's part of units.
template <int kDim, int kTiles, int kClusterSize>
class UnitWriter {
 public:
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  using Held = ProbePair[Shape::kItemsHeld];

  __device__ UnitWriter(const DecodeArgs& args, MergeStorage<kTiles>& storage, int slice, int rank)
      : args_(args), storage_(storage), slice_(slice), rank_(rank) {}

  // Which of the rank's items this warp holds i-th; may be beyond the last.
  static __device__ int HeldItem(int i) {
    return kClusterSize == 1 ? warp() * Shape::kItemsAWarp + i : i * kConsumerWarps + warp();
  }
  static __device__ int TileOfItem(int item) {
    return item % Shape::kItemsAWarp / Shape::kColumnTiles;
  }
  // Writes a whole unit out. Of a cut one, leaves the part in global memory; the last CTA of
  // this rank to do so merges the parts and writes the unit out.
  __device__ void Deliver(const Segment& segment, const LaneRows<kTiles>& rows, Held& held) {
    if (segment.first_slice != segment.last_slice) {
      StorePartial(segment, rows, held);
      if (!IsLastOfUnit(segment)) return;
      MergePartials(segment, rows, held);
    }
#pragma unroll
    for (int i = 0; i < Shape::kItemsHeld; ++i) {
      const int item = HeldItem(i);
      const int tile = TileOfItem(item);
      if (item >= Shape::kItems || RowEnd(rows, tile) == 0) continue;
      const float2 out = Finish(held[i]);
      const int row = (segment.row_block * kTiles + tile) * 8 + lane() / 4;
      const int64_t line = segment.span.first_row + row / args_.group;
      const int head = segment.kv_head * args_.group + row % args_.group;
      *reinterpret_cast<uint32_t*>(args_.out + line * args_.out_stride + head * kDim +
                                   DimOfItem(item)) = PackBFloat16(out.x, out.y);
    }
  }

 private:
  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ int warp() { return threadIdx.x / 32; }

  // The first of the two dims of this lane's part of an item.
  __device__ int DimOfItem(int item) const {
    const int owner = rank_ * (kConsumerWarps / kClusterSize) + item / Shape::kItemsAWarp;
    return (owner * Shape::kColumnTiles + item % Shape::kColumnTiles) * 8 + lane() % 4 * 2;
  }

  __device__ float4* Partial(int slice, bool continued) const {
    return args_.partials + ((int64_t{slice} * 2 + (continued ? 1 : 0)) * kClusterSize + rank_) *
                                Shape::kPartialSize;
  }

  // rows.end_key[tile] without indexing registers at run time.
  static __device__ int RowEnd(const LaneRows<kTiles>& rows, int tile) {
    int end = 0;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t == tile) end = rows.end_key[t];
    }
    return end;
  }

  __device__ void StorePartial(const Segment& segment, const LaneRows<kTiles>& rows,
                               const Held& held) {
    float4* const partial = Partial(slice_, slice_ == segment.first_slice);
#pragma unroll
    for (int i = 0; i < Shape::kItemsHeld; ++i) {
      const int item = HeldItem(i);
      const int tile = TileOfItem(item);
      if (item >= Shape::kItems || RowEnd(rows, tile) == 0) continue;
      if (item / Shape::kItemsAWarp == 0 && item % Shape::kColumnTiles == 0 && lane() % 4 == 0) {
        __stcg(&partial[tile * 8 + lane() / 4], held[i].scalars);
      }
      __stcg(&partial[Shape::kRows + item * 32 + lane()], held[i].outputs);
    }
  }

  __device__ bool IsLastOfUnit(const Segment& segment) {
    ConsumerBarrier();
    if (threadIdx.x == 0) {
      __threadfence();
      uint32_t* const counter = &args_.counters[segment.first_slice * kClusterSize + rank_];
      const uint32_t parts = segment.last_slice - segment.first_slice + 1;
      const bool is_last = atomicAdd(counter, 1u) == parts - 1;
      if (is_last) *counter = 0;  // for the next launch
      __threadfence();
      storage_.is_last = is_last;
    }
    ConsumerBarrier();
    return storage_.is_last;
  }

  __device__ void MergePartials(const Segment& segment, const LaneRows<kTiles>& rows, Held& held) {
#pragma unroll
    for (int i = 0; i < Shape::kItemsHeld; ++i) {
      const int item = HeldItem(i);
      const int tile = TileOfItem(item);
      if (item >= Shape::kItems || RowEnd(rows, tile) == 0) continue;
      const auto part = [&](int index) { return Partial(segment.first_slice + index, index == 0); };
      held[i] = MergeStates(
          segment.last_slice - segment.first_slice + 1,
          [&](int index) { return __ldcg(part(index) + tile * 8 + lane() / 4); },
          [&](int index) { return __ldcg(part(index) + Shape::kRows + item * 32 + lane()); });
    }
  }

  const DecodeArgs& args_;
  MergeStorage<kTiles>& storage_;
  const int slice_;
  const int rank_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_MERGE_CUH_
