// Per-head RMSNorm (optional) and rotary position embedding of q, r and k, in place, in one
// pass over the heads.
//
// RoPE (arXiv 2104.09864) in the half-split "neox" pairing: with position n, inverse
// frequency f_i and D = head_dim, for i < D/2
//   x'[i]       = x[i] * cos(n f_i) - x[i + D/2] * sin(n f_i)
//   x'[i + D/2] = x[i + D/2] * cos(n f_i) + x[i] * sin(n f_i)
// The probe r is rotated exactly as q and k are: its product with a key must see the same
// relative positions.
//
// A row's result depends on that row and its position alone, bit for bit.
//
// Thread safety: as Stream. Errors: KernelError for shapes, dtypes, positions out of range.
#ifndef PARALLAX_KERNELS_ROPE_H_
#define PARALLAX_KERNELS_ROPE_H_

#include <cstdint>
#include <span>

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

// Fills table [max_positions, head_dim] float32 with cos in the first half of a row and sin
// in the second, for the angles position * inverse_frequency[i] (computed in double).
// Host memory only; inverse_frequency has head_dim / 2 entries.
void FillRopeTable(std::span<const double> inverse_frequency, const TensorView& table);

// One of q, r, k.
struct HeadNormRopeOperand {
  TensorView x;            // [tokens, heads, head_dim] float32, rotated in place; undefined = skip
  ConstTensorView weight;  // [head_dim] float32 norm weight, or undefined: no norm
};

struct HeadNormRopeParams {
  HeadNormRopeOperand q;
  HeadNormRopeOperand r;
  HeadNormRopeOperand k;
  float norm_epsilon = 1e-6f;
  ConstTensorView table;               // from FillRopeTable
  std::span<const int32_t> positions;  // [tokens]
};

void HeadNormRope(const HeadNormRopeParams& params, const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_ROPE_H_
