// What a layer's parameters come to, and the checks that linear layers have in common.
//
// Thread safety: pure functions. Errors: KernelError, in the name of `op`.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_PARAMS_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_PARAMS_H_

#include <cstdint>
#include <string_view>

#include "kernels/cuda/linear.h"

namespace parallax::kernels::cuda {

inline bool IsGated(const LinearParams& p) { return p.epilogue == LinearEpilogue::kSiluAndMul; }

inline int OutputWidth(const LinearParams& p) {
  return IsGated(p) ? p.num_outputs / 2 : p.num_outputs;
}
inline int64_t XStride(const LinearParams& p) {
  return p.x_stride == 0 ? p.num_inputs : p.x_stride;
}
inline int64_t YStride(const LinearParams& p) {
  return p.y_stride == 0 ? OutputWidth(p) : p.y_stride;
}

// Whether the numbers of outputs and inputs are such as rows of 16 bytes need.
bool TakesMatrix(const LinearParams& params);

void CheckAligned(std::string_view op, const void* pointer, const char* operand);

// What every kernel asks of a layer; it asks more of the number of inputs and of y's stride.
void CheckOperands(std::string_view op, const LinearParams& params);

// All that TensorLinear, TileLinear and cuBLASLt's layers ask, but for the number of tokens.
void CheckLayer(std::string_view op, const LinearParams& params);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_LINEAR_PARAMS_H_
