#include "kernels/cuda/row_ops/row_checks.h"

#include <string>

#include "kernels/check.h"

namespace parallax::kernels::cuda {

constexpr int64_t kAlignment = 16;

void CheckAligned(std::string_view op, std::string_view operand, const void* data) {
  const auto misalignment = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data) % kAlignment);
  if (misalignment == 0) return;
  ThrowKernelError(
      op, operand,
      "must be 16-byte aligned, is " + std::to_string(misalignment) + " bytes beyond a boundary");
}

void CheckVectorRows(std::string_view op, std::string_view operand, const ConstTensorView& tensor) {
  CheckAligned(op, operand, tensor.data);
  const int64_t width = tensor.shape[tensor.rank - 1];
  if (width % kVector != 0) {
    ThrowKernelError(op, operand,
                     "must have rows of a multiple of 8 elements, has " + std::to_string(width));
  }
  for (int axis = 0; axis + 1 < tensor.rank; ++axis) {
    const int64_t bytes = tensor.strides[axis] * static_cast<int64_t>(DTypeSize(tensor.dtype));
    if (bytes % kAlignment == 0) continue;
    ThrowKernelError(
        op, operand,
        "must have strides of a multiple of 16 bytes, one is " + std::to_string(bytes) + " bytes");
  }
}

}  // namespace parallax::kernels::cuda
