// A tile's packed query rows: where they are in memory, and which keys they see.
//
// Thread safety: device code; called by a whole warp.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ROWS_CUH_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ROWS_CUH_

#include <cstdint>

#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/cuda/parallax_attention/prefill_row_state.cuh"
#include "kernels/cuda/parallax_attention/prefill_schedule.cuh"
#include "kernels/cuda/ptx/ptx.cuh"
#include "kernels/kv_cache_view.h"

namespace parallax::kernels::cuda {

constexpr int kHalfBytes = 64 * 128;  // a [64][64] swizzled tile: half of a block at head_dim 128

// Byte offset of 16-byte chunk `chunk` of row `row` in a swizzled block (paged_kv_cache.h).
__device__ __forceinline__ uint32_t ChunkOffset(int row, int chunk) {
  return chunk / 8 * kHalfBytes + row * 128 + (((chunk % 8) ^ (row % 8)) * 16);
}

// Starts copying kRows packed rows of q or r, from packed_begin on, into rows row_begin .. (a
// multiple of 8) of a swizzled block; fills up with rows of the tile when it has no more. Arrives
// with cp.async.wait_all. One warp copies a whole tile, and where a block has only one tile the
// matrix unit waits for it: no division, no branch and few registers inside the loop.
template <int kHeadDim, int kRows>
__device__ void LoadRows(const __nv_bfloat16* source, int64_t stride, const PrefillTile& tile,
                         int group_size, int packed_begin, uint32_t block, int row_begin,
                         int lane) {
  constexpr int kChunks = kHeadDim / 8;
  constexpr int kRowStep = 32 / kChunks;
  static_assert(8 % kRowStep == 0);
  const int chunk = lane % kChunks;
  const int first_row = lane / kChunks;
  const int packed_rows = tile.num_rows * group_size;
  int packed = min(packed_begin + first_row, packed_rows - 1);
  const int token = packed / group_size;
  int head = packed - token * group_size;
  const __nv_bfloat16* from = source + (tile.first_token + tile.first_row + token) * stride +
                              (tile.kv_head * group_size + head) * kHeadDim + chunk * 8;
  // A step of kRowStep packed rows: whole tokens, heads, and one token more where those wrap
  // around.
  const int step_heads = kRowStep % group_size;
  const int64_t step = kRowStep / group_size * stride + step_heads * kHeadDim;
  const int64_t wrap = stride - group_size * kHeadDim;
  // Rows of a step differ from first_row in bits that it lacks, so the swizzle of one gives the
  // rest.
  const uint32_t to = block + ChunkOffset(row_begin + first_row, chunk);
#pragma unroll 8 / kRowStep
  for (int row = 0; row < kRows; row += kRowStep) {
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((to ^ (row % 8 * 16)) + row * 128),
        "l"(from)
        : "memory");
    packed += kRowStep;
    const bool goes_on = packed < packed_rows;
    head += step_heads;
    const bool wraps = head >= group_size;
    head -= wraps ? group_size : 0;
    from += goes_on ? step + (wraps ? wrap : 0) : 0;
  }
}

// What a thread's two rows, `row` and row + 8 of the tile's packed rows, see of the keys.
class PrefillRowView {
 public:
  // [packed_begin, packed_begin + packed_size) are the rows that take a step together.
  __device__ __forceinline__ void Begin(const PrefillArgs& args, const PrefillTile& tile, int row,
                                        int packed_begin, int packed_size) {
    const int packed_rows = tile.num_rows * args.group_size;
    const int base = tile.first_position + tile.first_row;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      position_[i] = base + min(row + 8 * i, packed_rows - 1) / args.group_size;
    }
    const int first_packed = min(packed_begin, packed_rows - 1);
    const int last_packed = min(packed_begin + packed_size, packed_rows) - 1;
    whole_end_ = (base + first_packed / args.group_size + 1) / kPageSize;
    whole_begin_ =
        (max(base + last_packed / args.group_size - args.window + 1, 0) + kPageSize - 1) /
        kPageSize;
  }

  // Whether some of the rows do not see all of a key block.
  __device__ __forceinline__ bool IsMasked(int block) const {
    return block < whole_begin_ || block >= whole_end_;
  }

  // Masks the scores of the keys from `key` on.
  template <int kSize>
  __device__ __forceinline__ void Mask(int key, int window, int lane, float (&s1)[kSize]) const {
    const int column = key + 2 * (lane % 4);
    int first[2];
    int last[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      last[i] = position_[i] - column;
      first[i] = last[i] - window + 1;
    }
    MaskScores(s1, first, last);
  }

 private:
  int position_[2];  // of the thread's rows
  int whole_begin_;  // key blocks [whole_begin_, whole_end_) are seen by all rows
  int whole_end_;
};

// Writes a thread's two finished rows, `row` and row + 8 of the tile's packed rows.
template <int kHeadDim>
__device__ __forceinline__ void StoreRows(const PrefillArgs& args, const PrefillTile& tile, int row,
                                          int lane, const float (&out)[kHeadDim / 2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int packed = row + 8 * i;
    if (packed >= tile.num_rows * args.group_size) continue;
    const int token = packed / args.group_size;
    const int head = tile.kv_head * args.group_size + packed % args.group_size;
    __nv_bfloat16* const to = args.out +
                              (tile.first_token + tile.first_row + token) * args.out_stride +
                              head * kHeadDim + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      *reinterpret_cast<uint32_t*>(to + 8 * j) =
          PackBFloat16(out[4 * j + 2 * i], out[4 * j + 2 * i + 1]);
    }
  }
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ROWS_CUH_
