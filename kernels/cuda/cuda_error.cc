#include "kernels/cuda/cuda_error.h"

#include <string>

#include "kernels/check.h"

namespace parallax::kernels::cuda {

void CheckCuda(cudaError_t error, std::string_view op, std::string_view call) {
  if (error == cudaSuccess) return;
  ThrowKernelError(op, call,
                   std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error));
}

}  // namespace parallax::kernels::cuda
