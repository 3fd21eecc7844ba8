#include "kernels/cuda/cuda_error.h"

#include <string>

#include "kernels/check.h"

namespace parallax::kernels::cuda {

void CheckCuda(cudaError_t error, std::string_view op, std::string_view call) {
  if (error == cudaSuccess) return;
  const std::string problem =
      std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) ThrowOutOfMemory(op, call, problem);
  ThrowKernelError(op, call, problem);
}

}  // namespace parallax::kernels::cuda
