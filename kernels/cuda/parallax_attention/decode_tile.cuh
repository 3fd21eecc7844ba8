// The arithmetic of decode on one page in shared memory.
//
// Eight query rows sit in rows 0-7 of an m16n8k16 A tile and their probes in rows 8-15, so that
// a lane's C fragment holds s1 (elements 0, 1) and s2 (elements 2, 3) of the same row and keys.
// p and p * s2, packed, are then an A fragment of the product with V, and o1 and o2 of an
// output element end in the same lane. kTiles such tiles hold the row block.
//
// Warp w takes keys 16w .. 16w+15 of every page through both products, with a probe state of its
// own: nothing passes between warps until the segment's end (decode_merge.cuh). A barrier a page
// in exchange for no merge was slower wherever a CTA reads few pages.
//
// In a fragment lane l is of row l / 4 and columns 2 * (l % 4), + 1.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_TILE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_TILE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/ptx/ptx.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kConsumerWarps = 4;
inline constexpr int kConsumerThreads = 32 * kConsumerWarps;
inline constexpr int kConsumerBarrier = 1;
inline constexpr int kWarpKeys = kPageSize / kConsumerWarps;
static_assert(kWarpKeys == 16);

// A barrier of all warps that do arithmetic.
__device__ inline void ConsumerBarrier() { NamedBarrier<kConsumerBarrier, kConsumerThreads>(); }

// This warp's first key in a page.
__device__ inline int FirstKeyOfWarp() { return threadIdx.x / 32 * kWarpKeys; }

// Rows of the unit that this lane's fragments hold, and what they see.
template <int kTiles>
struct LaneRows {
  int first_key[kTiles];  // absolute positions [first_key, end_key)
  int end_key[kTiles];
  int64_t out_offset[kTiles];  // of the row in `out`, elements
};

// One warp's probe state of the rows over its keys. Maxima and centres are a row's; d1 and d2
// are this lane's keys'.
template <int kDim, int kTiles>
struct TileState {
  static constexpr int kColumns = kDim / 8;  // of 8 dims each
  static constexpr int kWarpColumns = kColumns / kConsumerWarps;

  // o[t][c] is of column c ^ FirstColumn(): the columns that this warp will merge, FirstColumn() ..
  // + kWarpColumns - 1, are the first in every warp.
  static __device__ int FirstColumn() { return threadIdx.x / 32 * kWarpColumns; }

  float max[kTiles];  // of s1 * scale * log2(e)
  float centre[kTiles];
  float d1[kTiles];
  float d2[kTiles];
  float o[kTiles][kColumns][4];  // o1, o1, o2, o2

  __device__ float4 Item(int t, int c) const {
    return make_float4(o[t][c][0], o[t][c][1], o[t][c][2], o[t][c][3]);
  }

  __device__ void Clear() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      max[t] = -INFINITY;
      centre[t] = d1[t] = d2[t] = 0.0f;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) o[t][c][0] = o[t][c][1] = o[t][c][2] = o[t][c][3] = 0;
    }
  }

  // Brings tile t to another maximum and centre: `decay` is exp2(old max - new max).
  __device__ void Rebase(int t, float decay, float shift) {
    d2[t] = (d2[t] + shift * d1[t]) * decay;
    d1[t] *= decay;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        o[t][c][i + 2] = (o[t][c][i + 2] + shift * o[t][c][i]) * decay;
        o[t][c][i] *= decay;
      }
    }
  }
};

// The row block's queries and probes in shared memory, one 16-row A tile after the other, rows
// swizzled as K's are.
template <int kDim, int kTiles>
struct QueryTile {
  uint4 chunks[kTiles][16][kDim / 8];

  __device__ uint4& Chunk(int tile, int row, int chunk) {
    return chunks[tile][row][chunk ^ (row % 8)];
  }
};

// All consumer threads send for the tile; each waits for its copies (WaitForCopies). A row beyond
// the last is zero.
template <int kDim, int kTiles>
__device__ void SendForQueries(const DecodeArgs& args, const Segment& segment,
                               QueryTile<kDim, kTiles>& tile) {
  constexpr int kChunks = kDim / 8;
  constexpr int kTileChunks = kTiles * 8 * kChunks;
#pragma unroll
  for (int x = threadIdx.x; x < kTileChunks; x += kConsumerThreads) {
    const int chunk = x % kChunks;
    const int row = x / kChunks;
    const int row_of_unit = segment.row_block * kTiles * 8 + row;
    const int token = args.group.Divide(row_of_unit);
    const int head = (segment.kv_head - token) * args.group.value + row_of_unit;
    const bool is_row = token < segment.span.query_len;
    const int64_t line = is_row ? segment.span.first_row + token : 0;
    const int64_t offset = is_row ? head * kDim + chunk * 8 : 0;
    const bool has_probe = is_row && args.r != nullptr;
    CopyAsyncOrZero(SharedAddress(&tile.Chunk(row / 8, row % 8, chunk)),
                    args.q + line * args.q_stride + offset, is_row);
    CopyAsyncOrZero(SharedAddress(&tile.Chunk(row / 8, row % 8 + 8, chunk)),
                    has_probe ? args.r + line * args.r_stride + offset : args.q, has_probe);
  }
}

// The A fragment of dims 16 * step .. + 15.
template <int kDim, int kTiles>
__device__ void LoadQueryFragment(QueryTile<kDim, kTiles>& tile, int t, int step,
                                  uint32_t (&fragment)[4]) {
  const int lane = threadIdx.x % 32;
  LoadMatrices(fragment, SharedAddress(&tile.Chunk(t, lane % 16, step * 2 + lane / 16)));
}

// One tile's fragments are kept in registers; two tiles' do not fit beside the state and are
// loaded again for every page.
template <int kDim, int kTiles>
struct QueryFragments {
  uint32_t held[kTiles == 1 ? kDim / 16 : 1][4];

  __device__ void Load(QueryTile<kDim, kTiles>& tile) {
    if constexpr (kTiles == 1) {
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) LoadQueryFragment(tile, 0, step, held[step]);
    }
  }
  __device__ void Get(QueryTile<kDim, kTiles>& tile, int t, int step,
                      uint32_t (&fragment)[4]) const {
    if constexpr (kTiles == 1) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragment[i] = held[step][i];
    } else {
      LoadQueryFragment(tile, t, step, fragment);
    }
  }
};

// [tile][8 keys]: s1, s1, s2, s2 of two keys.
template <int kTiles>
struct WarpScores {
  float tiles[kTiles][2][4];
  __device__ float (&operator[](int tile))[2][4] { return tiles[tile]; }
  __device__ const float (&operator[](int tile) const)[2][4] { return tiles[tile]; }
};

// Where in a block ldmatrix finds, for this lane, a row of this warp's keys. A chunk is 8 dims; in
// the address of a row and chunk (kernels/cuda/paged_kv_cache.h) each has bits of its own once the
// row's swizzle is xored in, so that one xor goes to another chunk.
template <int kDim>
struct LaneOffsets {
  uint32_t keys;    // of K, for the chunks 4i .. 4i + 3, one a quarter of the warp
  uint32_t values;  // of V, for o's columns c and c + 1, c even, one a half of the warp

  __device__ LaneOffsets() {
    const int lane = threadIdx.x % 32;
    keys = Offset(FirstKeyOfWarp() + lane % 8, lane / 8);
    values = Offset(FirstKeyOfWarp() + lane % 16, TileState<kDim, 1>::FirstColumn() ^ (lane / 16));
    // Else the compiler works them out again for every page.
    asm volatile("" : "+r"(keys), "+r"(values));
  }

  static __device__ uint32_t Offset(int row, int chunk) {
    return row * 128 + (row % 8 * 16 ^ ChunkBits(chunk));
  }
  static __device__ constexpr uint32_t ChunkBits(int chunk) {
    return chunk / 8 * (kPageSize * 128) + chunk % 8 * 16;
  }
  __device__ uint32_t OfKeys(int chunk) const { return keys ^ ChunkBits(chunk); }
  __device__ uint32_t OfValues(int column) const { return values ^ ChunkBits(column); }
};

// s1 (not scaled) and s2 of this warp's 16 keys.
template <int kDim, int kTiles>
__device__ void ComputeScores(WarpScores<kTiles>& scores,
                              const QueryFragments<kDim, kTiles>& fragments,
                              QueryTile<kDim, kTiles>& tile, LaneOffsets<kDim> offsets,
                              uint32_t k_block) {
  float odd[kTiles][2][4];  // a second chain of sums halves the wait for the first
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[t][0][i] = scores[t][1][i] = odd[t][0][i] = odd[t][1][i] = 0.0f;
    }
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; step += 2) {
    const uint32_t address = k_block + offsets.OfKeys(step * 2);
    uint32_t k[2][4];
    LoadMatrices(k[0], address);
    LoadMatrices(k[1], address + 8 * 128);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      uint32_t a[4];
      fragments.Get(tile, t, step, a);
      MultiplyAdd(scores[t][0], a, k[0][0], k[0][1]);
      MultiplyAdd(scores[t][1], a, k[1][0], k[1][1]);
      fragments.Get(tile, t, step + 1, a);
      MultiplyAdd(odd[t][0], a, k[0][2], k[0][3]);
      MultiplyAdd(odd[t][1], a, k[1][2], k[1][3]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[t][0][i] += odd[t][0][i];
      scores[t][1][i] += odd[t][1][i];
    }
  }
}

// Takes keys that a row does not see out of its scores.
template <int kTiles>
__device__ void MaskScores(WarpScores<kTiles>& scores, const LaneRows<kTiles>& rows, int page_key) {
  const int lane = threadIdx.x % 32;
  const int first = page_key + FirstKeyOfWarp() + lane % 4 * 2;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first + i / 2 * 8 + i % 2;
      if (key < rows.first_key[t] || key >= rows.end_key[t]) {
        scores[t][i / 2][i % 2] = -INFINITY;
        scores[t][i / 2][i % 2 + 2] = 0.0f;
      }
    }
  }
}

// The row's largest score of this warp's keys in some pages, and the s2 of that key.
template <int kPages, int kTiles>
__device__ float2 TopOfRow(const WarpScores<kTiles> (&scores)[kPages], int tile) {
  const int lane = threadIdx.x % 32;
  float2 top = {scores[0][tile][0][0], scores[0][tile][0][2]};
#pragma unroll
  for (int i = 1; i < 4 * kPages; ++i) {
    const float(&s)[4] = scores[i / 4][tile][i / 2 % 2];
    if (s[i % 2] > top.x) top = {s[i % 2], s[i % 2 + 2]};
  }
#pragma unroll
  for (int delta = 1; delta < 4; delta *= 2) {
    const float2 other = {__shfl_xor_sync(~0u, top.x, delta), __shfl_xor_sync(~0u, top.y, delta)};
    // The lower lane's on a tie, in both lanes.
    if (other.x > top.x || (other.x == top.x && (lane & delta) != 0)) top = other;
  }
  return top;
}

// One page's p and p * s2, packed as A fragments.
template <int kTiles>
using PageWeights = uint32_t[kTiles][4];

// Moves the state to the maxima of some pages, adds this lane's keys to d1 and d2, and packs p and
// p * s2.
template <int kDim, int kTiles, int kPages>
__device__ void ComputeWeights(const WarpScores<kTiles> (&scores)[kPages], float scale_log2,
                               TileState<kDim, kTiles>& state,
                               PageWeights<kTiles> (&weights)[kPages]) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    float2 top = TopOfRow(scores, t);
    top.x *= scale_log2;
    const bool rises = top.x > state.max[t];
    if (__any_sync(~0u, rises && state.max[t] != -INFINITY)) {
      const float decay = rises ? Exp2(state.max[t] - top.x) : 1.0f;
      state.Rebase(t, decay, rises ? state.centre[t] - top.y : 0.0f);
    }
    if (rises) {
      state.max[t] = top.x;
      state.centre[t] = top.y;
    }
    const float finite_top = state.max[t] == -INFINITY ? 0.0f : state.max[t];
#pragma unroll
    for (int i = 0; i < 2 * kPages; ++i) {
      const int half = i % 2;
      const float(&s)[4] = scores[i / 2][t][half];
      const float p0 = Exp2(fmaf(s[0], scale_log2, -finite_top));
      const float p1 = Exp2(fmaf(s[1], scale_log2, -finite_top));
      const uint32_t p = PackBFloat16(p0, p1);
      const uint32_t ps =
          PackBFloat16(p0 * (s[2] - state.centre[t]), p1 * (s[3] - state.centre[t]));
      // Sums of the rounded weights: then a constant added to all values adds itself to out.
      state.d1[t] += LowBFloat16(p) + HighBFloat16(p);
      state.d2[t] += LowBFloat16(ps) + HighBFloat16(ps);
      weights[i / 2][t][half * 2] = p;
      weights[i / 2][t][half * 2 + 1] = ps;
    }
  }
}

// The keys of the page that any row sees, [first, end), as a mask on V's fragments: a weight of
// zero does not make a NaN harmless.
struct ValueMask {
  int first;
  int end;

  // Of keys key, key + 1 in the halves of a register.
  __device__ uint32_t Pair(int key) const {
    return (key >= first && key < end ? 0xffffu : 0u) |
           (key + 1 >= first && key + 1 < end ? 0xffff0000u : 0u);
  }
};

// Adds this warp's weighted values to o.
template <int kDim, int kTiles, bool kMasked>
__device__ void AddValues(const PageWeights<kTiles>& weights, LaneOffsets<kDim> offsets,
                          uint32_t v_block, ValueMask mask, TileState<kDim, kTiles>& state) {
  uint32_t low_mask = ~0u;
  uint32_t high_mask = ~0u;
  if constexpr (kMasked) {
    const int lane = threadIdx.x % 32;
    const int first_key = FirstKeyOfWarp();
    low_mask = mask.Pair(first_key + lane % 4 * 2);
    high_mask = mask.Pair(first_key + 8 + lane % 4 * 2);
  }
#pragma unroll
  for (int c = 0; c < kDim / 8; c += 2) {
    uint32_t v[4];
    LoadMatricesTransposed(v, v_block + offsets.OfValues(c));
    if constexpr (kMasked) {
      v[0] &= low_mask;
      v[1] &= high_mask;
      v[2] &= low_mask;
      v[3] &= high_mask;
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      MultiplyAdd(state.o[t][c], weights[t], v[0], v[1]);
      MultiplyAdd(state.o[t][c + 1], weights[t], v[2], v[3]);
    }
  }
}

// AddValues() of pages without masks and ComputeScores() of as many others.
template <int kDim, int kTiles, int kPages>
__device__ void AddValuesAndComputeScores(
    const PageWeights<kTiles> (&weights)[kPages], LaneOffsets<kDim> offsets,
    const uint32_t (&v_blocks)[kPages], TileState<kDim, kTiles>& state,
    WarpScores<kTiles> (&scores)[kPages], const QueryFragments<kDim, kTiles>& fragments,
    QueryTile<kDim, kTiles>& tile, const uint32_t (&k_blocks)[kPages]) {
  float odd[kPages][kTiles][2][4];
#pragma unroll
  for (int i = 0; i < kPages * kTiles * 8; ++i) {
    scores[i / (kTiles * 8)][i / 8 % kTiles][i / 4 % 2][i % 4] = 0.0f;
    odd[i / (kTiles * 8)][i / 8 % kTiles][i / 4 % 2][i % 4] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; step += 2) {
#pragma unroll
    for (int page = 0; page < kPages; ++page) {
      const uint32_t address = k_blocks[page] + offsets.OfKeys(step * 2);
      uint32_t k[2][4];
      LoadMatrices(k[0], address);
      LoadMatrices(k[1], address + 8 * 128);
      uint32_t v[2][4];
      LoadMatricesTransposed(v[0], v_blocks[page] + offsets.OfValues(step * 2));
      LoadMatricesTransposed(v[1], v_blocks[page] + offsets.OfValues(step * 2 + 2));
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t(&w)[4] = weights[page][t];
        uint32_t a[4];
        fragments.Get(tile, t, step, a);
        MultiplyAdd(scores[page][t][0], a, k[0][0], k[0][1]);
        MultiplyAdd(scores[page][t][1], a, k[1][0], k[1][1]);
        MultiplyAdd(state.o[t][step * 2], w, v[0][0], v[0][1]);
        MultiplyAdd(state.o[t][step * 2 + 1], w, v[0][2], v[0][3]);
        fragments.Get(tile, t, step + 1, a);
        MultiplyAdd(odd[page][t][0], a, k[0][2], k[0][3]);
        MultiplyAdd(odd[page][t][1], a, k[1][2], k[1][3]);
        MultiplyAdd(state.o[t][step * 2 + 2], w, v[1][0], v[1][1]);
        MultiplyAdd(state.o[t][step * 2 + 3], w, v[1][2], v[1][3]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPages * kTiles * 8; ++i) {
    scores[i / (kTiles * 8)][i / 8 % kTiles][i / 4 % 2][i % 4] +=
        odd[i / (kTiles * 8)][i / 8 % kTiles][i / 4 % 2][i % 4];
  }
}

// What this lane's rows see. A row beyond the last sees nothing.
template <int kTiles>
__device__ LaneRows<kTiles> RowsOfLane(const DecodeArgs& args, const Segment& segment, int dim) {
  LaneRows<kTiles> rows;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const int row = (segment.row_block * kTiles + t) * 8 + threadIdx.x % 32 / 4;
    const int token = args.group.Divide(row);
    const int head = (segment.kv_head - token) * args.group.value + row;
    const int position = segment.span.context - segment.span.query_len + token;
    rows.end_key[t] = token < segment.span.query_len ? position + 1 : 0;
    rows.first_key[t] = args.sliding_window > 0 ? max(0, position - args.sliding_window + 1) : 0;
    rows.out_offset[t] = (segment.span.first_row + token) * args.out_stride + head * dim;
  }
  return rows;
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_TILE_CUH_
