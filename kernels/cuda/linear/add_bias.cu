#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/linear/add_bias.h"

namespace parallax::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    AddBiasKernel(const __nv_bfloat16* bias, float* y, int64_t y_stride, int num_outputs) {
  float* const row = y + blockIdx.x * y_stride;
  for (int i = 2 * threadIdx.x; i < num_outputs; i += 2 * kThreads) {
    const float2 add = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(bias + i));
    float2* const to = reinterpret_cast<float2*>(row + i);
    *to = make_float2(to->x + add.x, to->y + add.y);
  }
}

}  // namespace

void AddBias(const LinearParams& params, const Stream& stream) {
  AddBiasKernel<<<params.tokens, kThreads, 0, stream.cuda_stream()>>>(
      params.bias, static_cast<float*>(params.y), params.y_stride, params.num_outputs);
  CheckLaunch("LinearPlans");
}

}  // namespace parallax::kernels::cuda
