// Linear layer:  y = x W^T (+ bias), or y += x W^T (+ bias).
//
// Exactness: every element is one chain of fp32 fused multiply-adds over k = 0..K-1 that
// starts from zero, then + bias, then + the old y where asked. The order depends on nothing,
// so a row's result is bit for bit the same for any number of rows, threads, column ranges,
// and vector widths (AVX2, AVX-512).
//
// Few rows: bound by reading W, which stays in its dtype in memory and is read once for all
// rows. Many rows: each block of W is widened to fp32 once and used for all of them.
//
// Thread safety: as Stream. Nothing is allocated. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_LINEAR_H_
#define PARALLAX_KERNELS_LINEAR_H_

#include <cstdint>

#include "kernels/packed_weight.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

struct LinearParams {
  ConstTensorView x;                     // [tokens, K] float32
  const PackedWeight* weight = nullptr;  // [N, K]
  ConstTensorView bias;                  // [N] float32, or undefined
  TensorView y;                          // [tokens, column_end - column_begin] float32
  bool accumulate = false;               // y += instead of y =

  // Output columns to compute, so that a vocabulary projection can be done in slices.
  // column_begin is a multiple of kPanelWidth; column_end < 0 means N.
  int64_t column_begin = 0;
  int64_t column_end = -1;
};

void Linear(const LinearParams& params, const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_LINEAR_H_
