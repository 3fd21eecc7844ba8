#include "kernels/silu_and_mul.h"

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {

void SiluAndMul(const ConstTensorView& gate_up, const TensorView& out, const Stream& stream) {
  constexpr char kOp[] = "SiluAndMul";
  CheckTensor(kOp, "out", out, DType::kFloat32, {kAnyExtent, kAnyExtent}, stream);
  CheckTensor(kOp, "gate_up", gate_up, DType::kFloat32, {out.shape[0], 2 * out.shape[1]}, stream);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::SiluAndMul(gate_up, out, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

}  // namespace parallax::kernels
