#include "kernels/embedding.h"

#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {
namespace {

constexpr char kOp[] = "Embedding";

void CheckIds(std::span<const int32_t> ids, int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    ThrowKernelError(kOp, "ids",
                     "must be below " + std::to_string(vocab_size) + ", entry " +
                         std::to_string(i) + " is " + std::to_string(ids[i]));
  }
}

}  // namespace

void Embedding(const ConstTensorView& table, std::span<const int32_t> ids, const TensorView& out,
               const Stream& stream) {
  CheckTensor(kOp, "table", table, {kAnyExtent, kAnyExtent}, stream);
  CheckTensor(kOp, "out", out, DType::kFloat32, {static_cast<int64_t>(ids.size()), table.shape[1]},
              stream);
  CheckIds(ids, table.shape[0]);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::Embedding(table, ids, out, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

}  // namespace parallax::kernels
