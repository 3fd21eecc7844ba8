// RMSNorm on the GPU (kernels/rms_norm.h has the formula): the residual stream stays float32,
// what the next projection reads is bfloat16. Squares are summed in float32.
//
// A row's result depends on that row alone, bit for bit.
//
// The kernel before on the stream must not write `weight`, which is read before that one has ended.
//
// Thread safety: as Stream. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_CUDA_RMS_NORM_H_
#define PARALLAX_KERNELS_CUDA_RMS_NORM_H_

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

inline constexpr int64_t kMaxHiddenSize = 16384;  // a multiple of 8 up to this

// x: [tokens, hidden] float32; weight: [hidden] float32; out: [tokens, hidden] bfloat16.
// Rows may be strided, by multiples of 16 bytes.
void RmsNorm(const ConstTensorView& x, const ConstTensorView& weight, float epsilon,
             const TensorView& out, const Stream& stream);

// residual += x, then out = RmsNorm(residual). x and out: [tokens, hidden] bfloat16 (out may be
// x); residual: [tokens, hidden] float32.
void AddRmsNorm(const ConstTensorView& x, const TensorView& residual, const ConstTensorView& weight,
                float epsilon, const TensorView& out, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_RMS_NORM_H_
