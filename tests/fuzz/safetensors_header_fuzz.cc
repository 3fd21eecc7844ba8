// Any bytes may claim to be a safetensors file: the header must be refused or make sense.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "engine/models/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  const auto header = parallax::ParseSafetensorsHeader(bytes, size);
  if (header.ok()) {
    // Whatever is accepted lies inside the file.
    for (const parallax::SafetensorsEntry& tensor : header->tensors) {
      if (tensor.begin > tensor.end || header->data_offset + tensor.end > size) std::abort();
    }
  }
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)parallax::ParseShardIndex(text);
  return 0;
}
