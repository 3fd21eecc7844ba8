// Where memory lives and where an op runs.
#ifndef PARALLAX_KERNELS_DEVICE_H_
#define PARALLAX_KERNELS_DEVICE_H_

#include <cstdint>

namespace parallax::kernels {

enum class DeviceType : uint8_t {
  kCpu,
  kCuda,
};

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;  // CUDA ordinal; 0 for the CPU

  friend constexpr bool operator==(const Device&, const Device&) = default;
};

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_DEVICE_H_
