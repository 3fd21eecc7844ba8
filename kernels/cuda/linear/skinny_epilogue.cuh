// From the sums of products to y, for SkinnyLinear.
//
// Thread safety: device code; SkinnyOutputs::Store is called by a whole warp.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_SKINNY_EPILOGUE_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_SKINNY_EPILOGUE_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/linear.h"

namespace parallax::kernels::cuda {

struct SkinnyArgs {
  const __nv_bfloat16* x;
  int64_t x_stride;
  const __nv_bfloat16* weight;
  const __nv_bfloat16* bias;
  void* y;
  int64_t y_stride;
  int tokens;
  int num_outputs;
  int num_inputs;
  int tiles;
  int tiles_per_cta;
  int stages;
  int pitch;  // bytes between a stage's rows: an odd multiple of 64 keeps banks apart
  bool y_is_float;
  DeferredNorm norm;
  NextNorm next_norm;
};

// The row of W at row `r` of tile `tile`; -1 if there is none.
template <int kTileRows, LinearEpilogue kEpilogue>
__device__ int WeightRow(const SkinnyArgs& args, int tile, int r) {
  if constexpr (kEpilogue == LinearEpilogue::kSiluAndMul) {
    const int half = args.num_outputs / 2;
    return (r < 8 ? 0 : half) + tile * 8 + (r & 7);
  }
  const int row = tile * kTileRows + r;
  return row < args.num_outputs ? row : -1;
}

// What a lane (g, t) stores: rows g and g + 8 of a tile for tokens 2t and 2t + 1 of a block, and
// what it needs for that from memory, asked for before the products.
template <int kTileRows, LinearEpilogue kEpilogue>
struct SkinnyOutputs {
  int tile;
  int token;  // the first of two
  int lane;
  float bias[2] = {};
  float norm_weight[2] = {};
  float old[2][2] = {};  // [row][token]

  __device__ SkinnyOutputs(const SkinnyArgs& args, int tile_index, int block, int own_lane)
      : tile(tile_index), token(block * 8 + 2 * (own_lane & 3)), lane(own_lane) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = Row(args, r);
      if (row < 0) continue;
      if (args.bias != nullptr) bias[r] = __bfloat162float(args.bias[row]);
      if constexpr (kEpilogue == LinearEpilogue::kAccumulate) {
        if (args.next_norm.weight != nullptr) norm_weight[r] = args.next_norm.weight[row];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (token + i < args.tokens) old[r][i] = *Accumulated(args, r, i);
        }
      }
    }
  }

  // Of W; -1: none.
  __device__ int Row(const SkinnyArgs& args, int r) const {
    if (r == 1 && kTileRows < 16) return -1;
    return WeightRow<kTileRows, kEpilogue>(args, tile, (lane >> 2) + 8 * r);
  }

  __device__ float* Accumulated(const SkinnyArgs& args, int r, int i) const {
    return static_cast<float*>(args.y) + (token + i) * args.y_stride + Row(args, r);
  }

  // z: the products, rows g and g + 8 of token 2t first, then of 2t + 1, as an Mma leaves them.
  __device__ void Store(const SkinnyArgs& args, float4 z, const float* factors) const {
    const float factor[2] = {factors[token], factors[token + 1]};
    const float value[2][2] = {{z.x * factor[0] + bias[0], z.y * factor[1] + bias[0]},
                               {z.z * factor[0] + bias[1], z.w * factor[1] + bias[1]}};
    if constexpr (kEpilogue == LinearEpilogue::kAccumulate) {
      StoreSums(args, value);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (token + i >= args.tokens) continue;
        if constexpr (kEpilogue == LinearEpilogue::kSiluAndMul) {
          StoreOne(args, Row(args, 0), i, Silu(value[0][i]) * value[1][i]);
        } else {
          if (Row(args, 0) >= 0) StoreOne(args, Row(args, 0), i, value[0][i]);
          if (Row(args, 1) >= 0) StoreOne(args, Row(args, 1), i, value[1][i]);
        }
      }
    }
  }

 private:
  static __device__ float Silu(float z) { return z / (1.0f + __expf(-z)); }

  __device__ void StoreOne(const SkinnyArgs& args, int column, int i, float value) const {
    const int64_t at = (token + i) * args.y_stride + column;
    if (args.y_is_float) {
      static_cast<float*>(args.y)[at] = value;
    } else {
      static_cast<__nv_bfloat16*>(args.y)[at] = __float2bfloat16_rn(value);
    }
  }

  // By a whole warp, which has one tile and one block of tokens.
  __device__ void StoreSums(const SkinnyArgs& args, const float (&value)[2][2]) const {
    float squares[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (token + i >= args.tokens) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = Row(args, r);
        if (row < 0) continue;
        const float sum = old[r][i] + value[r][i];
        *Accumulated(args, r, i) = sum;
        squares[i] += sum * sum;
        if (args.next_norm.weight == nullptr) continue;
        args.next_norm.scaled[static_cast<int64_t>(token + i) * args.num_outputs + row] =
            __float2bfloat16_rn(sum * norm_weight[r]);
      }
    }
    if (args.next_norm.weight == nullptr) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int other = 4; other < 32; other *= 2) {
        squares[i] += __shfl_xor_sync(0xffffffffu, squares[i], other);
      }
      if (lane < 4 && token + i < args.tokens) {
        args.next_norm.squares[(token + i) * args.tiles + tile] = squares[i];
      }
    }
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_SKINNY_EPILOGUE_CUH_
