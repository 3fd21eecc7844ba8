// The gate of a SwiGLU MLP on the GPU (kernels/silu_and_mul.h has the formula).
//
// Thread safety: as Stream. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_CUDA_SILU_AND_MUL_H_
#define PARALLAX_KERNELS_CUDA_SILU_AND_MUL_H_

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

// gate_up: [tokens, 2 * width] bfloat16, gate first; out: [tokens, width] bfloat16. width is a
// multiple of 8; rows may be strided, by multiples of 16 bytes.
void SiluAndMul(const ConstTensorView& gate_up, const TensorView& out, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_SILU_AND_MUL_H_
