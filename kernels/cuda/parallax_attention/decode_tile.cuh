// The arithmetic of decode on one page in shared memory, by kConsumerWarps warps together.
//
// Eight query rows sit in rows 0-7 of an m16n8k16 A tile and their probes in rows 8-15, so that
// a lane's C fragment holds s1 (elements 0, 1) and s2 (elements 2, 3) of the same row and keys.
// p and p * s2, packed, are then an A fragment of the product with V, and o1 and o2 of an
// output element end in the same lane. kTiles such tiles hold the row block.
//
// Scores: warp w takes keys 8w .. 8w+7 of the page. Product with V: warp w takes dims
// w * D/8 .. (w+1) * D/8 of the output, over all keys. Between the two p goes through shared
// memory, which costs a barrier a page and saves merging eight warps' outputs at the end.
//
// In a fragment lane l is of row l / 4 and columns 2 * (l % 4), + 1.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_TILE_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_TILE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/parallax_attention/decode_plan.cuh"
#include "kernels/cuda/parallax_attention/decode_ptx.cuh"

namespace parallax::kernels::cuda {

inline constexpr int kConsumerWarps = 8;
inline constexpr int kConsumerThreads = 32 * kConsumerWarps;
inline constexpr int kConsumerBarrier = 1;

__device__ inline void ConsumerBarrier() { NamedBarrier<kConsumerBarrier, kConsumerThreads>(); }

// What the warps exchange about a page. A row's eight entries are padded to 80 bytes, which
// spreads the rows over the banks.
template <int kTiles>
struct TileExchange {
  alignas(16) float2 top[kTiles * 8][10];  // [row][warp]: largest scaled s1 and the s2 of that key
  uint4 weights[kTiles][4][32];            // A fragments of p, p * s2: [tile][16 keys][lane]
};

// Rows of the unit that this lane's fragments hold, and what they see.
template <int kTiles>
struct LaneRows {
  int first_key[kTiles];  // absolute positions [first_key, end_key)
  int end_key[kTiles];
};

// The probe state of the rows, spread over the CTA: maxima and centres are the same in all
// warps; d1 and d2 are this lane's keys'; o is this warp's dims'.
template <int kDim, int kTiles>
struct TileState {
  static constexpr int kColumnTiles = kDim / (8 * kConsumerWarps);  // 8 dims each

  float max[kTiles];  // of s1 * scale * log2(e)
  float centre[kTiles];
  float d1[kTiles];
  float d2[kTiles];
  float o[kTiles][kColumnTiles][4];  // o1, o1, o2, o2

  __device__ void Clear() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      max[t] = -INFINITY;
      centre[t] = d1[t] = d2[t] = 0.0f;
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) o[t][c][0] = o[t][c][1] = o[t][c][2] = o[t][c][3] = 0;
    }
  }
};

// s1 (scaled to powers of two) and s2 of this warp's 8 keys.
template <int kDim, int kTiles>
__device__ void ComputeScores(float (&scores)[kTiles][4],
                              const uint32_t (&query)[kTiles][kDim / 16][4], uint32_t k_block) {
  const int lane = threadIdx.x % 32;
  const int key = threadIdx.x / 32 * 8 + lane % 8;
  const int matrix = lane / 8;
  float odd[kTiles][4];  // a second chain of sums halves the wait for the first
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[t][i] = odd[t][i] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; step += 2) {
    const int chunk = step * 2 + matrix;
    uint32_t k[4];
    LoadMatrices(
        k, k_block + chunk / 8 * (kPageSize * 128) + key * 128 + ((chunk % 8) ^ (key % 8)) * 16);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      MultiplyAdd(scores[t], query[t][step], k[0], k[1]);
      MultiplyAdd(odd[t], query[t][step + 1], k[2], k[3]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[t][i] += odd[t][i];
  }
}

// Takes keys that a row does not see out of its scores.
template <int kTiles>
__device__ void MaskScores(float (&scores)[kTiles][4], const LaneRows<kTiles>& rows, int page_key) {
  const int lane = threadIdx.x % 32;
  const int key = page_key + threadIdx.x / 32 * 8 + lane % 4 * 2;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (key + i < rows.first_key[t] || key + i >= rows.end_key[t]) {
        scores[t][i] = -INFINITY;
        scores[t][i + 2] = 0.0f;
      }
    }
  }
}

// Publishes each row's top score of this warp's keys, with the s2 of that key.
template <int kTiles>
__device__ void PublishTop(const float (&scores)[kTiles][4], float scale_log2,
                           TileExchange<kTiles>& exchange) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    float top = scores[t][0];
    float probe = scores[t][2];
    if (scores[t][1] > top) {
      top = scores[t][1];
      probe = scores[t][3];
    }
#pragma unroll
    for (int delta = 1; delta < 4; delta *= 2) {
      const float other_top = __shfl_xor_sync(~0u, top, delta);
      const float other_probe = __shfl_xor_sync(~0u, probe, delta);
      // The lower lane's on a tie, in both lanes.
      if (other_top > top || (other_top == top && (lane & delta) != 0)) {
        top = other_top;
        probe = other_probe;
      }
    }
    if (lane % 4 == 0) {
      exchange.top[t * 8 + lane / 4][threadIdx.x / 32] = make_float2(top * scale_log2, probe);
    }
  }
}

// Moves the state to the page's maxima, adds this lane's keys to d1 and d2, and publishes
// p and p * s2. All tops of the page have been published.
template <int kDim, int kTiles>
__device__ void PublishWeights(const float (&scores)[kTiles][4], float scale_log2,
                               const TileExchange<kTiles>& tops, TileExchange<kTiles>& exchange,
                               TileState<kDim, kTiles>& state) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    float top = state.max[t];
    float centre = state.centre[t];
    const float4* const row_tops = reinterpret_cast<const float4*>(tops.top[t * 8 + lane / 4]);
#pragma unroll
    for (int pair = 0; pair < kConsumerWarps / 2; ++pair) {
      const float4 two = row_tops[pair];
      if (two.x > top) {
        top = two.x;
        centre = two.y;
      }
      if (two.z > top) {
        top = two.z;
        centre = two.w;
      }
    }
    const float finite_top = top == -INFINITY ? 0.0f : top;
    const float decay = Exp2(state.max[t] - finite_top);
    const float shift = state.centre[t] - centre;
    state.max[t] = top;
    state.centre[t] = centre;
    state.d2[t] = (state.d2[t] + shift * state.d1[t]) * decay;
    state.d1[t] *= decay;
#pragma unroll
    for (int c = 0; c < TileState<kDim, kTiles>::kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        state.o[t][c][i + 2] = (state.o[t][c][i + 2] + shift * state.o[t][c][i]) * decay;
        state.o[t][c][i] *= decay;
      }
    }
    const float p0 = Exp2(fmaf(scores[t][0], scale_log2, -finite_top));
    const float p1 = Exp2(fmaf(scores[t][1], scale_log2, -finite_top));
    const uint32_t p = PackBFloat16(p0, p1);
    const uint32_t ps = PackBFloat16(p0 * (scores[t][2] - centre), p1 * (scores[t][3] - centre));
    // Sums of the rounded weights: then a constant added to all values adds itself to out.
    state.d1[t] += LowBFloat16(p) + HighBFloat16(p);
    state.d2[t] += LowBFloat16(ps) + HighBFloat16(ps);
    uint2* const fragment = reinterpret_cast<uint2*>(&exchange.weights[t][warp / 2][lane]);
    fragment[warp % 2] = make_uint2(p, ps);
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

// Adds the page's weighted values to o. All weights of the page have been published.
template <int kDim, int kTiles, bool kMasked>
__device__ void AddValues(const TileExchange<kTiles>& exchange, uint32_t v_block, ValueMask mask,
                          TileState<kDim, kTiles>& state) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int key_pair = lane % 4 * 2;
  const auto multiply = [&](int step, int column, uint32_t b0, uint32_t b1) {
    if constexpr (kMasked) {
      b0 &= mask.Pair(step * 16 + key_pair);
      b1 &= mask.Pair(step * 16 + 8 + key_pair);
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const uint4 weights = exchange.weights[t][step][lane];
      MultiplyAdd(state.o[t][column], {weights.x, weights.y, weights.z, weights.w}, b0, b1);
    }
  };
  uint32_t v[4];
  if constexpr (kDim == 128) {
    const int chunk = warp * 2 + lane / 16;
    const int row = lane % 16;
    const uint32_t address =
        v_block + chunk / 8 * (kPageSize * 128) + row * 128 + ((chunk % 8) ^ (row % 8)) * 16;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      LoadMatricesTransposed(v, address + step * 16 * 128);
      multiply(step, 0, v[0], v[1]);
      multiply(step, 1, v[2], v[3]);
    }
  } else {
    const uint32_t address = v_block + lane * 128 + (warp ^ (lane % 8)) * 16;
#pragma unroll
    for (int step = 0; step < 4; step += 2) {
      LoadMatricesTransposed(v, address + step * 16 * 128);
      multiply(step, 0, v[0], v[1]);
      multiply(step + 1, 0, v[2], v[3]);
    }
  }
}

// Loads the A fragments of the row block's queries and probes, and what its rows see. A row
// beyond the last sees nothing.
template <int kDim, int kTiles>
__device__ void LoadRows(const DecodeArgs& args, const Segment& segment,
                         uint32_t (&query)[kTiles][kDim / 16][4], LaneRows<kTiles>& rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const int row = (segment.row_block * kTiles + t) * 8 + lane / 4;
    const int token = row / args.group;
    const bool exists = token < segment.span.query_len;
    const int position = segment.span.context - segment.span.query_len + token;
    rows.end_key[t] = exists ? position + 1 : 0;
    rows.first_key[t] = args.sliding_window > 0 ? max(0, position - args.sliding_window + 1) : 0;
    const int head = segment.kv_head * args.group + row % args.group;
    const int64_t line = segment.span.first_row + token;
    const __nv_bfloat16* const q = args.q + line * args.q_stride + head * kDim + lane % 4 * 2;
    const __nv_bfloat16* const r = args.r + line * args.r_stride + head * kDim + lane % 4 * 2;
    const bool probed = exists && args.r != nullptr;
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int d = step * 16 + half * 8;
        query[t][step][half * 2] = exists ? *reinterpret_cast<const uint32_t*>(q + d) : 0u;
        query[t][step][half * 2 + 1] = probed ? *reinterpret_cast<const uint32_t*>(r + d) : 0u;
      }
    }
  }
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_TILE_CUH_
