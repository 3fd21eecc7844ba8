// A linear layer's weight, rearranged once at load for the CPU's matrix product.
//
// W [N, K] row-major becomes panels of kPanelWidth = 16 output columns, [ceil(N/16)][K][16],
// in its own dtype: lanes of a vector are output columns, so a product needs no reduction
// across lanes and streams the weight at unit stride. The last panel is padded with zeros.
//
// Thread safety: immutable after construction.
// Errors: KernelError for shapes, dtypes, or memory that cannot be had.
#ifndef PARALLAX_KERNELS_PACKED_WEIGHT_H_
#define PARALLAX_KERNELS_PACKED_WEIGHT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

class PackedWeight {
 public:
  // An empty weight; only assignable.
  PackedWeight() = default;

  // Packs `weight` [N, K].
  PackedWeight(const ConstTensorView& weight, const Stream& stream);

  // Packs several weights [N_i, K] of one dtype below each other, as one [sum N_i, K]: fused
  // projections such as q, r, k, v.
  PackedWeight(std::span<const ConstTensorView> weights, const Stream& stream);

  int64_t num_outputs() const { return num_outputs_; }  // N
  int64_t num_inputs() const { return num_inputs_; }    // K
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  size_t size_bytes() const { return size_bytes_; }

  // The panels; the backend's business.
  const void* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(void* data) const;
  };

  int64_t num_outputs_ = 0;
  int64_t num_inputs_ = 0;
  DType dtype_ = DType::kFloat32;
  Device device_;
  size_t size_bytes_ = 0;
  std::unique_ptr<void, Free> data_;
};

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_PACKED_WEIGHT_H_
