#include "engine/models/host_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace parallax {

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

absl::StatusOr<HostBuffer> HostBuffer::Allocate(size_t bytes, const std::string& purpose) {
  HostBuffer buffer;
  if (bytes == 0) return buffer;
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes for ", purpose, ": ", strerror(errno)));
  }
  buffer.data_ = static_cast<std::byte*>(memory);
  buffer.size_ = bytes;
  // Huge pages are an optimisation that a kernel may not offer; the touch below backs either.
  madvise(memory, bytes, MADV_HUGEPAGE);
  constexpr size_t kSmallestPage = 4096;
  for (size_t offset = 0; offset < bytes; offset += kSmallestPage) {
    static_cast<volatile std::byte*>(buffer.data_)[offset] = std::byte{0};
  }
  return buffer;
}

}  // namespace parallax
