// A large, page-aligned, zeroed block of host memory, backed from the moment it is made.
//
// Backing it at once moves "out of memory" from three in the morning to start-up.
//
// Thread safety: none; movable, owned by one object.
#ifndef PARALLAX_ENGINE_MODELS_HOST_BUFFER_H_
#define PARALLAX_ENGINE_MODELS_HOST_BUFFER_H_

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace parallax {

class HostBuffer {
 public:
  HostBuffer() = default;
  ~HostBuffer();
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;

  /// RESOURCE_EXHAUSTED, naming `purpose` and the size, if the memory cannot be had.
  static absl::StatusOr<HostBuffer> Allocate(size_t bytes, const std::string& purpose);

  std::byte* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_HOST_BUFFER_H_
