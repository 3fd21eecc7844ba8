#include "kernels/linear.h"

#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/kv_cache_view.h"

namespace parallax::kernels {
namespace {

constexpr char kOp[] = "Linear";

void CheckParams(const LinearParams& params, int64_t column_end, const Stream& stream) {
  const PackedWeight& weight = *params.weight;
  if (weight.device() != stream.device()) {
    ThrowKernelError(kOp, "weight", "must be on the stream's device");
  }
  const int64_t tokens = params.x.shape[0];
  CheckTensor(kOp, "x", params.x, DType::kFloat32, {kAnyExtent, weight.num_inputs()}, stream);
  if (params.bias.defined()) {
    CheckTensor(kOp, "bias", params.bias, DType::kFloat32, {weight.num_outputs()}, stream);
  }
  if (params.column_begin < 0 || params.column_begin % kPanelWidth != 0) {
    ThrowKernelError(kOp, "column_begin",
                     "must be a non-negative multiple of " + std::to_string(kPanelWidth) + ", is " +
                         std::to_string(params.column_begin));
  }
  if (column_end > weight.num_outputs() || column_end < params.column_begin) {
    ThrowKernelError(kOp, "column_end",
                     "must lie in [column_begin, " + std::to_string(weight.num_outputs()) +
                         "], is " + std::to_string(column_end));
  }
  CheckTensor(kOp, "y", params.y, DType::kFloat32, {tokens, column_end - params.column_begin},
              stream);
}

}  // namespace

void Linear(const LinearParams& params, const Stream& stream) {
  if (params.weight == nullptr || params.weight->data() == nullptr) {
    ThrowKernelError(kOp, "weight", "must not be empty");
  }
  const int64_t column_end =
      params.column_end < 0 ? params.weight->num_outputs() : params.column_end;
  CheckParams(params, column_end, stream);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::Linear(params, column_end, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

}  // namespace parallax::kernels
