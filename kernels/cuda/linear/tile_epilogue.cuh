// From the sums of products to y, for TileLinear.
//
// Of 8 tokens a warp has 16 rows as the instruction leaves them: lane (g, t) = (lane / 4, lane % 4)
// rows g and g + 8 of tokens 2t and 2t + 1. As float32 four lanes exchange theirs, so that each has
// four rows of one token, of which the warp has 64 neighbouring bytes. What is rounded to bf16 is
// transposed in shared memory on its way, 64 tokens at a time, so that whole lines of y are
// written.
//
// Thread safety: device code; run by all threads of a warpgroup together.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_EPILOGUE_CUH_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_EPILOGUE_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/linear/tensor_epilogue.cuh"
#include "kernels/cuda/linear/tensor_ptx.cuh"
#include "kernels/cuda/linear/tile_shared.cuh"
#include "kernels/cuda/ptx/ptx.cuh"

namespace parallax::kernels::cuda {

// The groups of 8 tokens, of a tile, that are to be stored.
struct SumRange {
  int first;
  int last;  // not one of them
};

template <int kWarpgroups, int kTokens, TileOutput kOutput>
class TileEpilogue {
 public:
  // Whether it uses the shared memory that it is given.
  static constexpr bool kStages = kOutput != TileOutput::kFloat32;

  __device__ TileEpilogue(const TileArgs& args, const TilePlace& place, int warp)
      : args_(args),
        first_token_(place.first_token),
        warp_(warp),
        width_(kGated ? args.num_outputs / 2 : args.num_outputs),
        first_output_((place.row_tile * kWarpgroups + warp / 4) * kOutputs) {
    // Gated blocks of 16 rows hold 8 outputs: their gates in rows 0..7, their ups in rows 8..15.
    const int output = first_output_ + warp % 4 * (kOutputs / 4) + lane() / 4;
    const int second = kGated ? width_ + output : output + 8;
    if (args.bias == nullptr || output >= width_) return;
    bias_ = __bfloat162float(args.bias[output]);
    if (second < args.num_outputs) second_bias_ = __bfloat162float(args.bias[second]);
  }

  // `staging`: 8 KB of shared memory that nobody but this warpgroup reads or writes.
  __device__ void Store(const float (&sums)[kTokens / 2], const SumRange& range,
                        uint32_t staging) const {
    if constexpr (kStages) {
      StoreStaged(sums, range, staging);
    } else {
      StoreFloats(sums, range);
    }
  }

 private:
  static constexpr bool kGated = kOutput == TileOutput::kSiluAndMul;
  static constexpr int kGroups = kTokens / 8;
  static constexpr int kOutputs = kTileWarpgroupRows / (kGated ? 2 : 1);  // of a warpgroup

  static constexpr int kPassGroups = 8;
  static constexpr int kPassTokens = 8 * kPassGroups;
  static constexpr int kRowBytes = kOutputs * sizeof(__nv_bfloat16);  // of a token
  static constexpr int kChunks = kRowBytes / 16;
  static_assert(kPassTokens * kRowBytes <= kTileMinSumBytes);

  static __device__ int lane() { return threadIdx.x % 32; }

  __device__ void StoreFloats(const float (&sums)[kTokens / 2], const SumRange& range) const {
    const int g = lane() / 4;
    const bool second_token = g % 2 == 1;
    const bool second_rows = g / 2 % 2 == 1;
    const int token = first_token_ + 2 * (lane() % 4) + (second_token ? 1 : 0);
    const int output = first_output_ + warp_ % 4 * 16 + (second_rows ? 8 : 0) + (g & ~3);
    float* y = static_cast<float*>(args_.y) + token * args_.y_stride + output;
    const int64_t step = 8 * args_.y_stride;
    // num_outputs comes in eights: four neighbours are all there, or none.
    const int last = output < width_ ? (args_.tokens - token + 7) / 8 : 0;
#pragma unroll
    for (int group = 0; group < kGroups; ++group, y += step) {
      if (group < range.first || group >= range.last) continue;
      const float* const z = &sums[4 * group];
      const float2 first = ExchangeRows(second_token, z[0] + bias_, z[1] + bias_);
      const float2 second = ExchangeRows(second_token, z[2] + second_bias_, z[3] + second_bias_);
      const float4 rows = ExchangePairs(second_rows, first, second);
      if (group >= last) continue;
      if (args_.adds) {
        AddToGlobal(y, rows);
      } else {
        *reinterpret_cast<float4*>(y) = rows;
      }
    }
  }

  // Of two rows and of the two next to them, eight lanes on, and of those 8 further down: gives
  // away what the neighbour keeps. Returns four neighbouring rows.
  static __device__ float4 ExchangePairs(bool keeps_second, float2 first, float2 second) {
    const float2 given = keeps_second ? first : second;
    const float x = __shfl_xor_sync(~0u, given.x, 8);
    const float y = __shfl_xor_sync(~0u, given.y, 8);
    return keeps_second ? make_float4(x, y, second.x, second.y)
                        : make_float4(first.x, first.y, x, y);
  }

  __device__ void StoreStaged(const float (&sums)[kTokens / 2], const SumRange& range,
                              uint32_t staging) const {
#pragma unroll
    for (int pass = 0; pass < kGroups; pass += kPassGroups) {
      if (pass >= range.last || pass + kPassGroups <= range.first) continue;
      // Who reads the place, be it products or the pass before, is done with it.
      SyncWarpgroup(warp_ / 4);
#pragma unroll
      for (int i = 0; i < kPassGroups; ++i) {
        const int group = pass + i;
        if (group >= kGroups) break;
        if (group >= range.first && group < range.last) Stage(sums, group, staging, i);
      }
      SyncWarpgroup(warp_ / 4);
      WriteRows(pass, range, staging);
    }
  }

  // Where 8 outputs of a token of the pass are kept: rows are rotated, so that neither 8 tokens of
  // the same outputs nor all outputs of a token meet in a bank.
  static __device__ uint32_t ChunkAt(uint32_t staging, int row, int chunk) {
    const int rotated = kGated ? chunk ^ (row / 2 % 4) : chunk ^ (row % 8);
    return staging + row * kRowBytes + rotated * 16;
  }

  // Group i of the pass.
  __device__ void Stage(const float (&sums)[kTokens / 2], int group, uint32_t staging,
                        int i) const {
    const float* const z = &sums[4 * group];
    const int row = 8 * i + lane() % 8;
    const int block = warp_ % 4;
    if constexpr (kGated) {
      const float first = Silu(z[0] + bias_) * (z[2] + second_bias_);
      const float second = Silu(z[1] + bias_) * (z[3] + second_bias_);
      StoreMatrixTransposed(ChunkAt(staging, row, block), PackBFloat16(first, second));
    } else {
      StoreMatricesTransposed(ChunkAt(staging, row, 2 * block + lane() / 8 % 2),
                              PackBFloat16(z[0] + bias_, z[1] + bias_),
                              PackBFloat16(z[2] + second_bias_, z[3] + second_bias_));
    }
  }

  // Of a pass, by the warpgroup: neighbouring threads write neighbouring 16 bytes of a token.
  __device__ void WriteRows(int pass, const SumRange& range, uint32_t staging) const {
    const int thread = threadIdx.x % 128;
    const int chunk = thread % kChunks;
    const int output = first_output_ + 8 * chunk;
    __nv_bfloat16* const y = static_cast<__nv_bfloat16*>(args_.y) + output;
#pragma unroll
    for (int i = 0; i < kPassTokens * kChunks / 128; ++i) {
      const int row = thread / kChunks + i * (128 / kChunks);
      const int group = pass + row / 8;
      const int token = first_token_ + 8 * pass + row;
      const bool stored = group >= range.first && group < range.last;
      if (!stored || token >= args_.tokens || output >= width_) continue;
      *reinterpret_cast<float4*>(y + token * args_.y_stride) =
          LoadShared(ChunkAt(staging, row, chunk));
    }
  }

  const TileArgs& args_;
  const int first_token_;
  const int warp_;
  const int width_;         // of y
  const int first_output_;  // of the warpgroup
  float bias_ = 0.0f;       // of the lane's rows
  float second_bias_ = 0.0f;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_EPILOGUE_CUH_
