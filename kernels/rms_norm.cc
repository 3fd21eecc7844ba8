#include "kernels/rms_norm.h"

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {
namespace {

void CheckNorm(const char* op, const ConstTensorView& x, const ConstTensorView& weight,
               float epsilon, const TensorView& out, const Stream& stream) {
  CheckTensor(op, "x", x, DType::kFloat32, {kAnyExtent, kAnyExtent}, stream);
  CheckTensor(op, "weight", weight, DType::kFloat32, {x.shape[1]}, stream);
  CheckTensor(op, "out", out, DType::kFloat32, {x.shape[0], x.shape[1]}, stream);
  Check(epsilon >= 0.0f, op, "epsilon", "non-negative", epsilon);
}

void Dispatch(const char* op, const ConstTensorView& x, const TensorView& residual,
              const ConstTensorView& weight, float epsilon, const TensorView& out,
              const Stream& stream) {
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::AddRmsNorm(x, residual, weight, epsilon, out, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(op);
  }
}

}  // namespace

void RmsNorm(const ConstTensorView& x, const ConstTensorView& weight, float epsilon,
             const TensorView& out, const Stream& stream) {
  constexpr char kOp[] = "RmsNorm";
  CheckNorm(kOp, x, weight, epsilon, out, stream);
  Dispatch(kOp, x, /*residual=*/{}, weight, epsilon, out, stream);
}

void AddRmsNorm(const ConstTensorView& x, const TensorView& residual, const ConstTensorView& weight,
                float epsilon, const TensorView& out, const Stream& stream) {
  constexpr char kOp[] = "AddRmsNorm";
  CheckNorm(kOp, x, weight, epsilon, out, stream);
  CheckTensor(kOp, "residual", residual, DType::kFloat32, {x.shape[0], x.shape[1]}, stream);
  Dispatch(kOp, x, residual, weight, epsilon, out, stream);
}

}  // namespace parallax::kernels
