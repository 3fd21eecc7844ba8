// Checks that the row-wise ops share.
#ifndef PARALLAX_KERNELS_CUDA_ROW_OPS_ROW_CHECKS_H_
#define PARALLAX_KERNELS_CUDA_ROW_OPS_ROW_CHECKS_H_

#include <cstdint>
#include <string_view>

#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

// Elements that a thread handles at a time: 16 bytes of bfloat16.
inline constexpr int kVector = 8;

// Throws unless every row of `tensor` begins on a 16-byte boundary and holds whole vectors.
void CheckVectorRows(std::string_view op, std::string_view operand, const ConstTensorView& tensor);

// Throws unless `data` lies on a 16-byte boundary.
void CheckAligned(std::string_view op, std::string_view operand, const void* data);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_ROW_OPS_ROW_CHECKS_H_
