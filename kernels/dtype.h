// Element types of the tensors that ops read and write.
#ifndef PARALLAX_KERNELS_DTYPE_H_
#define PARALLAX_KERNELS_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace parallax::kernels {

enum class DType : uint8_t {
  kFloat32,
  kBFloat16,
  kFloat16,
};

constexpr size_t DTypeSize(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

constexpr std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  return "invalid";
}

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_DTYPE_H_
