#include "kernels/cuda/device_memory.h"

#include <cuda_runtime_api.h>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"

namespace parallax::kernels::cuda {
namespace {

void CheckAllocated(cudaError_t error, const std::string& purpose, size_t bytes) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an allocation that failed leaves the device usable
  CheckCuda(error, purpose, std::to_string(bytes) + " bytes");
}

}  // namespace

DeviceMemoryInfo ReadDeviceMemoryInfo() {
  DeviceMemoryInfo info;
  CheckCuda(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "device", "cudaMemGetInfo");
  return info;
}

int DeviceCount() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

DeviceBuffer::DeviceBuffer(size_t bytes, const std::string& purpose) : size_(bytes) {
  if (bytes == 0) return;
  void* data = nullptr;
  CheckAllocated(cudaMalloc(&data, bytes), purpose, bytes);
  data_.reset(static_cast<std::byte*>(data));
  // The legacy stream clears it, for which streams of their own do not wait.
  CheckCuda(cudaMemset(data, 0, bytes), purpose, "cudaMemset");
  CheckCuda(cudaStreamSynchronize(cudaStreamLegacy), purpose, "cudaMemset");
}

void DeviceBuffer::Free::operator()(std::byte* data) const { cudaFree(data); }

PinnedBuffer::PinnedBuffer(size_t bytes, const std::string& purpose) : size_(bytes) {
  if (bytes == 0) return;
  void* data = nullptr;
  CheckAllocated(cudaMallocHost(&data, bytes), purpose + ", pinned", bytes);
  data_.reset(static_cast<std::byte*>(data));
}

void PinnedBuffer::Free::operator()(std::byte* data) const { cudaFreeHost(data); }

void CopyToDevice(void* device, const void* host, size_t bytes, const Stream& stream) {
  CheckCuda(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream.cuda_stream()),
            "CopyToDevice", "cudaMemcpyAsync");
}

void CopyToHost(void* host, const void* device, size_t bytes, const Stream& stream) {
  CheckCuda(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream.cuda_stream()),
            "CopyToHost", "cudaMemcpyAsync");
}

void CopyRowsToDevice(void* device, size_t device_pitch, const void* host, size_t host_pitch,
                      size_t row_bytes, size_t rows, const Stream& stream) {
  if (row_bytes == 0 || rows == 0) return;
  CheckCuda(cudaMemcpy2DAsync(device, device_pitch, host, host_pitch, row_bytes, rows,
                              cudaMemcpyHostToDevice, stream.cuda_stream()),
            "CopyRowsToDevice", "cudaMemcpy2DAsync");
}

}  // namespace parallax::kernels::cuda
