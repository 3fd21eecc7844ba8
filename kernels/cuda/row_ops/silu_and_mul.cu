#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/row_ops/row_checks.h"
#include "kernels/cuda/row_ops/vectors.cuh"
#include "kernels/cuda/silu_and_mul.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "SiluAndMul";
constexpr int kThreads = 128;

__device__ float Silu(float x) { return x / (1.0f + __expf(-x)); }

// Grid: [tokens, column blocks].
__global__ void __launch_bounds__(kThreads)
    SiluAndMulKernel(const __nv_bfloat16* gate_up, int64_t gate_up_stride, __nv_bfloat16* out,
                     int64_t out_stride, int width) {
  LetNextKernelStart();
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kVector;
  if (column >= width) return;
  WaitForPrecedingKernel();
  const __nv_bfloat16* const row = gate_up + blockIdx.x * gate_up_stride;
  const Vector gate = LoadVector(row + column);
  Vector up = LoadVector(row + width + column);
#pragma unroll
  for (int i = 0; i < kVector; ++i) up.v[i] *= Silu(gate.v[i]);
  StoreVector(up, out + blockIdx.x * out_stride + column);
}

}  // namespace

void SiluAndMul(const ConstTensorView& gate_up, const TensorView& out, const Stream& stream) {
  CheckTensor(kOp, "out", out, DType::kBFloat16, {kAnyExtent, kAnyExtent}, stream);
  const int64_t tokens = out.shape[0];
  const int64_t width = out.shape[1];
  CheckTensor(kOp, "gate_up", gate_up, DType::kBFloat16, {tokens, 2 * width}, stream);
  CheckVectorRows(kOp, "out", out);
  CheckVectorRows(kOp, "gate_up", gate_up);
  if (tokens == 0 || width == 0) return;
  const dim3 grid(static_cast<unsigned>(tokens),
                  static_cast<unsigned>((width / kVector + kThreads - 1) / kThreads));
  LaunchEarly(kOp, SiluAndMulKernel, grid, kThreads, stream, gate_up.as<__nv_bfloat16>(),
              gate_up.strides[0], out.as<__nv_bfloat16>(), out.strides[0], static_cast<int>(width));
}

}  // namespace parallax::kernels::cuda
