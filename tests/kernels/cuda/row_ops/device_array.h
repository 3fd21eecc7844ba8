// An array in device memory for tests, filled from and read back to vectors.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_ROW_OPS_DEVICE_ARRAY_H_
#define PARALLAX_TESTS_KERNELS_CUDA_ROW_OPS_DEVICE_ARRAY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

namespace parallax::kernels::cuda {

inline void Require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

template <typename T>
class DeviceArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // Poisoned: every byte is 0xff, which makes floats NaN.
  explicit DeviceArray(size_t size) : size_(size) {
    Require(cudaMalloc(&data_, size == 0 ? 1 : size * sizeof(T)));
    Require(cudaMemset(data_, 0xff, size * sizeof(T)));
    // The ops run on streams that do not wait for the default one.
    Require(cudaDeviceSynchronize());
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    Require(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
    // It may return with the last bytes still on their way from the driver's own buffer.
    Require(cudaDeviceSynchronize());
  }
  ~DeviceArray() { cudaFree(data_); }

  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  DeviceArray& operator=(DeviceArray&&) = delete;

  // Waits for the device.
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    Require(cudaDeviceSynchronize());
    Require(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

  T* data() const { return static_cast<T*>(data_); }
  size_t size() const { return size_; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_ROW_OPS_DEVICE_ARRAY_H_
