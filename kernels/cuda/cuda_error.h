// Turning CUDA's error codes into KernelError.
//
// Thread safety: stateless.
#ifndef PARALLAX_KERNELS_CUDA_CUDA_ERROR_H_
#define PARALLAX_KERNELS_CUDA_CUDA_ERROR_H_

#include <cuda_runtime_api.h>

#include <string_view>

namespace parallax::kernels::cuda {

// Throws KernelError("<op>: <call>: <CUDA's name and text of the error>") unless `error` is
// cudaSuccess.
void CheckCuda(cudaError_t error, std::string_view op, std::string_view call);

// Throws if the kernel launch just made was refused. Finds nothing that happens while the
// kernel runs: that shows at the next synchronisation.
inline void CheckLaunch(std::string_view op) { CheckCuda(cudaGetLastError(), op, "launch"); }

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_CUDA_ERROR_H_
