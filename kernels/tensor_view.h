// A non-owning view of a strided tensor: what ops take and give.
//
// Strides are in elements. Every op wants the last dimension contiguous; the others may be
// strided, so that q, r, k and v can be slices of one fused projection's output.
//
// Thread safety: a value; the memory behind it is the caller's business.
#ifndef PARALLAX_KERNELS_TENSOR_VIEW_H_
#define PARALLAX_KERNELS_TENSOR_VIEW_H_

#include <array>
#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/device.h"
#include "kernels/dtype.h"

namespace parallax::kernels {

inline constexpr int kMaxTensorRank = 4;

template <typename VoidPointer>
struct BasicTensorView {
  VoidPointer data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;  // 0 = absent
  std::array<int64_t, kMaxTensorRank> shape = {};
  std::array<int64_t, kMaxTensorRank> strides = {};  // in elements
  Device device;

  BasicTensorView() = default;

  // A contiguous row-major tensor.
  BasicTensorView(VoidPointer tensor_data, DType tensor_dtype,
                  std::initializer_list<int64_t> tensor_shape, Device tensor_device = {})
      : data(tensor_data),
        dtype(tensor_dtype),
        rank(static_cast<int>(tensor_shape.size())),
        device(tensor_device) {
    assert(rank <= kMaxTensorRank);
    int i = 0;
    for (int64_t extent : tensor_shape) shape[i++] = extent;
    int64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      strides[axis] = stride;
      stride *= shape[axis];
    }
  }

  // A mutable view is usable wherever a constant one is.
  template <typename Other>
  requires(std::is_same_v<VoidPointer, const void*>&& std::is_same_v<Other, void*>)
      BasicTensorView(const BasicTensorView<Other>& other)  // NOLINT: implicit by design
      : data(other.data),
        dtype(other.dtype),
        rank(other.rank),
        shape(other.shape),
        strides(other.strides),
        device(other.device) {}

  bool defined() const { return rank > 0; }

  int64_t num_elements() const {
    int64_t count = rank > 0 ? 1 : 0;
    for (int axis = 0; axis < rank; ++axis) count *= shape[axis];
    return count;
  }

  // The data as elements of T; the op has checked that dtype agrees.
  template <typename T>
  auto as() const {
    using Element = std::conditional_t<std::is_same_v<VoidPointer, const void*>, const T, T>;
    return static_cast<Element*>(data);
  }
};

using TensorView = BasicTensorView<void*>;
using ConstTensorView = BasicTensorView<const void*>;

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_TENSOR_VIEW_H_
