#include "kernels/rope.h"

#include <cmath>
#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {
namespace {

constexpr char kOp[] = "HeadNormRope";

void CheckOperand(const char* name, const HeadNormRopeOperand& operand,
                  const HeadNormRopeParams& params, const Stream& stream) {
  if (!operand.x.defined()) return;
  const int64_t tokens = static_cast<int64_t>(params.positions.size());
  const int64_t head_dim = params.table.shape[1];
  CheckTensor(kOp, name, operand.x, DType::kFloat32, {tokens, kAnyExtent, head_dim}, stream);
  if (operand.weight.defined()) {
    CheckTensor(kOp, std::string(name) + " weight", operand.weight, DType::kFloat32, {head_dim},
                stream);
  }
}

void CheckPositions(std::span<const int32_t> positions, int64_t max_positions) {
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] >= 0 && positions[i] < max_positions) continue;
    ThrowKernelError(kOp, "positions",
                     "must be below " + std::to_string(max_positions) + ", entry " +
                         std::to_string(i) + " is " + std::to_string(positions[i]));
  }
}

void CheckHeadDim(const char* op, int64_t head_dim) {
  if (head_dim >= 2 && head_dim % 2 == 0) return;
  ThrowKernelError(op, "table", "must have an even head_dim, has " + std::to_string(head_dim));
}

}  // namespace

void FillRopeTable(std::span<const double> inverse_frequency, const TensorView& table) {
  const int64_t half = static_cast<int64_t>(inverse_frequency.size());
  if (table.device.type != DeviceType::kCpu || table.dtype != DType::kFloat32 || table.rank != 2 ||
      table.shape[1] != 2 * half || table.strides[1] != 1) {
    ThrowKernelError(
        "FillRopeTable", "table",
        "must be float32 [max_positions, " + std::to_string(2 * half) + "] in host memory");
  }
  for (int64_t position = 0; position < table.shape[0]; ++position) {
    float* const row = table.as<float>() + position * table.strides[0];
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * inverse_frequency[i];
      row[i] = static_cast<float>(std::cos(angle));
      row[half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void HeadNormRope(const HeadNormRopeParams& params, const Stream& stream) {
  CheckTensor(kOp, "table", params.table, DType::kFloat32, {kAnyExtent, kAnyExtent}, stream);
  CheckHeadDim(kOp, params.table.shape[1]);
  CheckOperand("q", params.q, params, stream);
  CheckOperand("r", params.r, params, stream);
  CheckOperand("k", params.k, params, stream);
  CheckPositions(params.positions, params.table.shape[0]);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::HeadNormRope(params, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

}  // namespace parallax::kernels
