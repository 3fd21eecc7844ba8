// What the linear kernels do alike on the host: they ask the GPU, check a layer, make kernels
// ready.
//
// Thread safety: any thread. Errors: KernelError, in the name of `op`.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_LAUNCH_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_LAUNCH_H_

#include <cuda_runtime_api.h>

#include <string_view>

#include "kernels/cuda/linear.h"

namespace parallax::kernels::cuda {

int DeviceAttribute(std::string_view op, cudaDeviceAttr attribute, int device);
bool IsHopper(std::string_view op, int device);

// 1..max_tokens tokens, and numbers of outputs and inputs that tensor copies take.
bool TakesShape(const LinearParams& params, int max_tokens);

// Throws where that is not so, or strides, types or addresses are not what tensor copies take.
void CheckTensorParams(std::string_view op, const LinearParams& params, int max_tokens);

// Loads a kernel, which would otherwise happen in its first launch, in the middle of serving; and
// lets it have all the shared memory of an SM.
void PrepareKernel(std::string_view op, const void* kernel);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_LAUNCH_H_
