#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/row_ops/row_checks.h"
#include "kernels/cuda/row_ops/vectors.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr int kWarpLanes = 32;
constexpr int kMaxThreads = 1024;

struct NormRows {
  const __nv_bfloat16* x;  // [tokens, hidden]; null: nothing is added
  const float* residual;   // [tokens, hidden]
  float* sum;              // [tokens, hidden], residual itself; null: not written
  const float* weight;     // [hidden]
  __nv_bfloat16* out;      // [tokens, hidden]
  int64_t x_stride;
  int64_t residual_stride;
  int64_t out_stride;
  int hidden;
  float epsilon;
};

// The sum over the block, in every thread.
__device__ float SumOverBlock(float x) {
  __shared__ float partial[kMaxThreads / kWarpLanes];
  const int lane = threadIdx.x % kWarpLanes;
  const int warps = blockDim.x / kWarpLanes;
  x = SumOverLanes<kWarpLanes>(x);
  if (lane == 0) partial[threadIdx.x / kWarpLanes] = x;
  __syncthreads();
  return SumOverLanes<kWarpLanes>(lane < warps ? partial[lane] : 0.0f);
}

// A block a row. The row stays in registers between its two uses: Vectors of each thread.
template <int Vectors>
__global__ void __launch_bounds__(kMaxThreads) AddRmsNormKernel(NormRows rows) {
  LetNextKernelStart();
  const int64_t row = blockIdx.x;
  const float* const residual = rows.residual + row * rows.residual_stride;
  Vector weight[Vectors];
#pragma unroll
  for (int i = 0; i < Vectors; ++i) {
    const int column = (i * blockDim.x + threadIdx.x) * kVector;
    if (column < rows.hidden) weight[i] = LoadVector(rows.weight + column);
  }
  Vector held[Vectors];
  float squares = 0.0f;
  WaitForPrecedingKernel();
#pragma unroll
  for (int i = 0; i < Vectors; ++i) {
    const int column = (i * blockDim.x + threadIdx.x) * kVector;
    if (column >= rows.hidden) break;
    held[i] = LoadVector(residual + column);
    if (rows.x != nullptr) {
      const Vector x = LoadVector(rows.x + row * rows.x_stride + column);
#pragma unroll
      for (int e = 0; e < kVector; ++e) held[i].v[e] += x.v[e];
      StoreVector(held[i], rows.sum + row * rows.residual_stride + column);
    }
    squares += SumOfSquares(held[i]);
  }
  const float factor =
      1.0f / sqrtf(SumOverBlock(squares) / static_cast<float>(rows.hidden) + rows.epsilon);
#pragma unroll
  for (int i = 0; i < Vectors; ++i) {
    const int column = (i * blockDim.x + threadIdx.x) * kVector;
    if (column >= rows.hidden) break;
#pragma unroll
    for (int e = 0; e < kVector; ++e) held[i].v[e] = held[i].v[e] * factor * weight[i].v[e];
    StoreVector(held[i], rows.out + row * rows.out_stride + column);
  }
}

void Launch(const char* op, const NormRows& rows, int64_t tokens, const Stream& stream) {
  if (tokens == 0) return;
  const int vectors = rows.hidden / kVector;
  const int warps = (vectors + kWarpLanes - 1) / kWarpLanes;
  const int threads = std::min(warps * kWarpLanes, kMaxThreads);
  const auto grid = static_cast<unsigned>(tokens);
  if (vectors <= kMaxThreads) {
    LaunchEarly(op, AddRmsNormKernel<1>, grid, threads, stream, rows);
  } else {
    LaunchEarly(op, AddRmsNormKernel<2>, grid, threads, stream, rows);
  }
}

void CheckNorm(const char* op, const ConstTensorView& x, DType x_dtype,
               const ConstTensorView& weight, float epsilon, const TensorView& out,
               const Stream& stream) {
  CheckTensor(op, "x", x, x_dtype, {kAnyExtent, kAnyExtent}, stream);
  const int64_t hidden = x.shape[1];
  Check(hidden >= 1 && hidden <= kMaxHiddenSize, op, "x", "of 1 to 16384 columns",
        static_cast<double>(hidden));
  CheckTensor(op, "weight", weight, DType::kFloat32, {hidden}, stream);
  CheckTensor(op, "out", out, DType::kBFloat16, {x.shape[0], hidden}, stream);
  Check(epsilon >= 0.0f, op, "epsilon", "non-negative", epsilon);
  CheckVectorRows(op, "x", x);
  CheckVectorRows(op, "weight", weight);
  CheckVectorRows(op, "out", out);
}

}  // namespace

void RmsNorm(const ConstTensorView& x, const ConstTensorView& weight, float epsilon,
             const TensorView& out, const Stream& stream) {
  constexpr char kOp[] = "RmsNorm";
  CheckNorm(kOp, x, DType::kFloat32, weight, epsilon, out, stream);
  const NormRows rows = {.x = nullptr,
                         .residual = x.as<float>(),
                         .sum = nullptr,
                         .weight = weight.as<float>(),
                         .out = out.as<__nv_bfloat16>(),
                         .x_stride = 0,
                         .residual_stride = x.strides[0],
                         .out_stride = out.strides[0],
                         .hidden = static_cast<int>(x.shape[1]),
                         .epsilon = epsilon};
  Launch(kOp, rows, x.shape[0], stream);
}

void AddRmsNorm(const ConstTensorView& x, const TensorView& residual, const ConstTensorView& weight,
                float epsilon, const TensorView& out, const Stream& stream) {
  constexpr char kOp[] = "AddRmsNorm";
  CheckNorm(kOp, x, DType::kBFloat16, weight, epsilon, out, stream);
  CheckTensor(kOp, "residual", residual, DType::kFloat32, {x.shape[0], x.shape[1]}, stream);
  CheckVectorRows(kOp, "residual", residual);
  const NormRows rows = {.x = x.as<__nv_bfloat16>(),
                         .residual = residual.as<float>(),
                         .sum = residual.as<float>(),
                         .weight = weight.as<float>(),
                         .out = out.as<__nv_bfloat16>(),
                         .x_stride = x.strides[0],
                         .residual_stride = residual.strides[0],
                         .out_stride = out.strides[0],
                         .hidden = static_cast<int>(x.shape[1]),
                         .epsilon = epsilon};
  Launch(kOp, rows, x.shape[0], stream);
}

}  // namespace parallax::kernels::cuda
