// Owners of device memory and of page-locked host memory, and the asynchronous copies between
// them. All of it is allocated at start; a step only copies.
//
// Thread safety: movable values; copies are as Stream.
// Errors: OutOfMemoryError naming the purpose and the size when the memory cannot be had.
#ifndef PARALLAX_KERNELS_CUDA_DEVICE_MEMORY_H_
#define PARALLAX_KERNELS_CUDA_DEVICE_MEMORY_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "kernels/stream.h"

namespace parallax::kernels::cuda {

struct DeviceMemoryInfo {
  size_t free_bytes = 0;   // what cudaMalloc can still give
  size_t total_bytes = 0;  // of the device
};

// Of the current device.
DeviceMemoryInfo ReadDeviceMemoryInfo();

// How many GPUs this process can use; 0 without a driver.
int DeviceCount();

// Memory of the current device, 256-byte aligned. It is zero when the constructor returns, for
// whichever stream uses it.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(size_t bytes, const std::string& purpose);

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_.get(), size_}; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

// Page-locked host memory: copies from and to it run while the host goes on.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(size_t bytes, const std::string& purpose);

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

// Enqueue copies. The host side is pinned and stays as it is until the copy has run.
void CopyToDevice(void* device, const void* host, size_t bytes, const Stream& stream);
void CopyToHost(void* host, const void* device, size_t bytes, const Stream& stream);
// `rows` rows of row_bytes; rows lie device_pitch and host_pitch bytes apart.
void CopyRowsToDevice(void* device, size_t device_pitch, const void* host, size_t host_pitch,
                      size_t row_bytes, size_t rows, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_DEVICE_MEMORY_H_
