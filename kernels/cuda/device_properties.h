// What launch decisions need to know of a GPU, read once.
//
// Thread safety: immutable after construction.
#ifndef PARALLAX_KERNELS_CUDA_DEVICE_PROPERTIES_H_
#define PARALLAX_KERNELS_CUDA_DEVICE_PROPERTIES_H_

#include <string>

namespace parallax::kernels::cuda {

struct DeviceProperties {
  int index = 0;               // CUDA ordinal
  std::string name;            // e.g. "NVIDIA H200"
  int compute_capability = 0;  // 10 * major + minor, e.g. 90
  int num_sms = 0;             // streaming multiprocessors

  bool is_hopper() const { return compute_capability == 90; }
};

// Errors: KernelError when there is no such GPU, or one older than sm_80.
DeviceProperties ReadDeviceProperties(int index);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_DEVICE_PROPERTIES_H_
