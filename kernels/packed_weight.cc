#include "kernels/packed_weight.h"

#include <new>
#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/kv_cache_view.h"

namespace parallax::kernels {
namespace {

constexpr char kOp[] = "PackedWeight";
constexpr std::align_val_t kAlignment{64};

}  // namespace

void PackedWeight::Free::operator()(void* data) const { ::operator delete(data, kAlignment); }

PackedWeight::PackedWeight(const ConstTensorView& weight, const Stream& stream)
    : PackedWeight(std::span(&weight, 1), stream) {}

PackedWeight::PackedWeight(std::span<const ConstTensorView> weights, const Stream& stream)
    : device_(stream.device()) {
  if (weights.empty()) ThrowKernelError(kOp, "weights", "must not be empty");
  dtype_ = weights[0].dtype;
  num_inputs_ = weights[0].shape[1];
  for (const ConstTensorView& weight : weights) {
    CheckTensor(kOp, "weight", weight, dtype_, {kAnyExtent, num_inputs_}, stream);
    CheckAtLeast(kOp, "weight rows", weight.shape[0], 1);
    num_outputs_ += weight.shape[0];
  }
  CheckAtLeast(kOp, "weight columns", num_inputs_, 1);
  const int64_t panels = (num_outputs_ + kPanelWidth - 1) / kPanelWidth;
  size_bytes_ = static_cast<size_t>(panels * kPanelWidth * num_inputs_) * DTypeSize(dtype_);
  switch (device_.type) {
    case DeviceType::kCpu:
      data_.reset(::operator new(size_bytes_, kAlignment, std::nothrow));
      if (data_ == nullptr) {
        ThrowKernelError(kOp, "memory", "cannot get " + std::to_string(size_bytes_) + " bytes");
      }
      cpu::PackPanels(weights, data_.get(), stream.thread_pool());
      return;
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

}  // namespace parallax::kernels
