// Per-head RMSNorm (optional) and rotary embedding of q, r and k, and the write of k and v into
// the paged cache, in one pass over the output of the fused q, r, k, v projection.
//
// kernels/rope.h and kernels/rms_norm.h have the formulas. The arithmetic is float32; every
// value is rounded once, when it is stored. A row's result depends on that row and its position
// alone, bit for bit.
//
// Positions and slots are read on the device, so that a captured graph can be replayed with
// others. Their ranges are the caller's promise: positions lie in the table, slots below
// num_pages * kPageSize and no slot occurs twice. A negative slot writes neither k nor v.
//
// The kernel before on the stream must write none of positions, slot_mapping, table and the norm
// weights: they are read before that one has ended.
//
// Thread safety: as Stream. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_CUDA_HEAD_NORM_ROPE_H_
#define PARALLAX_KERNELS_CUDA_HEAD_NORM_ROPE_H_

#include <cstdint>
#include <span>

#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

// A position that no token has.
inline constexpr int32_t kNeverHolds = INT32_MAX;

struct HeadNormRopeParams {
  // [tokens, q rows + r rows + k rows + v rows] bfloat16: each row q, r, k, v, of num_heads,
  // num_heads (none when r is undefined), num_kv_heads, num_kv_heads heads. Biases are in it.
  ConstTensorView qrkv;
  // [tokens, num_heads, head_dim] bfloat16 each; may be slices of qrkv. r undefined: no probe.
  TensorView q;
  TensorView r;
  // [head_dim] float32 norm weights; undefined: no norm.
  ConstTensorView q_weight;
  ConstTensorView r_weight;
  ConstTensorView k_weight;
  float norm_epsilon = 1e-6f;
  ConstTensorView table;                  // [max_positions, head_dim] float32: FillRopeTable
  std::span<const int32_t> positions;     // [tokens], device memory
  std::span<const int64_t> slot_mapping;  // [tokens], device memory
  PagedKvCache cache;                     // states num_kv_heads and head_dim (64 or 128)

  // Where a token has this position or a later one, a next kernel that is launched early starts
  // only once the one before this has completed, and so finds all multiprocessors free but those of
  // this. Else it starts as early as it can.
  int32_t holds_next_from = kNeverHolds;
};

void HeadNormRopeAndKvWrite(const HeadNormRopeParams& params, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_HEAD_NORM_ROPE_H_
