#include "kernels/cuda/device_properties.h"

#include <cuda_runtime_api.h>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"

namespace parallax::kernels::cuda {

DeviceProperties ReadDeviceProperties(int index) {
  constexpr char kOp[] = "ReadDeviceProperties";
  cudaDeviceProp raw;
  CheckCuda(cudaGetDeviceProperties(&raw, index), kOp, "device " + std::to_string(index));
  DeviceProperties properties;
  properties.index = index;
  properties.name = raw.name;
  properties.compute_capability = 10 * raw.major + raw.minor;
  properties.num_sms = raw.multiProcessorCount;
  if (properties.compute_capability < 80) {
    ThrowKernelError(kOp, properties.name,
                     "must have compute capability 8.0 or later, has " +
                         std::to_string(raw.major) + "." + std::to_string(raw.minor));
  }
  return properties;
}

}  // namespace parallax::kernels::cuda
