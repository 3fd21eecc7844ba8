// y += bias, for what cuBLASLt has no epilogue for: a bf16 bias with a float32 y.
//
// Thread safety: as Stream.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_ADD_BIAS_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_ADD_BIAS_H_

#include "kernels/cuda/linear.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// Of `params` its bias, y (float32, y_stride given), tokens and num_outputs (a multiple of 8).
void AddBias(const LinearParams& params, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_ADD_BIAS_H_
