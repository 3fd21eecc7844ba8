#include "kernels/cuda/linear/tensor_launch.h"

#include <string>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/linear/linear_params.h"
#include "kernels/cuda/linear/tensor_split.h"

namespace parallax::kernels::cuda {

int DeviceAttribute(std::string_view op, cudaDeviceAttr attribute, int device) {
  int value = 0;
  CheckCuda(cudaDeviceGetAttribute(&value, attribute, device), op, "device attribute");
  return value;
}

bool IsHopper(std::string_view op, int device) {
  return DeviceAttribute(op, cudaDevAttrComputeCapabilityMajor, device) == 9;
}

bool TakesShape(const LinearParams& p, int max_tokens) {
  return p.tokens >= 1 && p.tokens <= max_tokens && TakesMatrix(p);
}

void CheckTensorParams(std::string_view op, const LinearParams& p, int max_tokens) {
  Check(p.tokens >= 1 && p.tokens <= max_tokens, op, "tokens", "1.." + std::to_string(max_tokens),
        p.tokens);
  CheckLayer(op, p);
}

void PrepareKernel(std::string_view op, const void* kernel) {
  cudaFuncAttributes attributes;
  CheckCuda(cudaFuncGetAttributes(&attributes, kernel), op, "loading");
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 TensorSharedBytes(1)),
            op, "shared memory");
}

}  // namespace parallax::kernels::cuda
