// RMSNorm (arXiv 1910.07467):  out = x / sqrt(mean(x^2) + eps) * weight, row by row.
//
// A row's result depends on that row alone, bit for bit.
//
// Thread safety: as Stream. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_RMS_NORM_H_
#define PARALLAX_KERNELS_RMS_NORM_H_

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

// x and out: [tokens, hidden] float32 (out may be x); weight: [hidden] float32.
void RmsNorm(const ConstTensorView& x, const ConstTensorView& weight, float epsilon,
             const TensorView& out, const Stream& stream);

// residual += x, then out = RmsNorm(residual). All [tokens, hidden] float32; out may be x.
void AddRmsNorm(const ConstTensorView& x, const TensorView& residual, const ConstTensorView& weight,
                float epsilon, const TensorView& out, const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_RMS_NORM_H_
