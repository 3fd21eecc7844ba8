// The gate of a SwiGLU MLP (arXiv 2002.05202):  out = silu(gate) * up,
// silu(x) = x / (1 + exp(-x)).
//
// Thread safety: as Stream. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_SILU_AND_MUL_H_
#define PARALLAX_KERNELS_SILU_AND_MUL_H_

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

// gate_up: [tokens, 2 * width] float32, gate first; out: [tokens, width] float32.
void SiluAndMul(const ConstTensorView& gate_up, const TensorView& out, const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_SILU_AND_MUL_H_
