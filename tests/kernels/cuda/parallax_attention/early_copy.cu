#include "kernels/cuda/programmatic_launch.cuh"
#include "tests/kernels/cuda/parallax_attention/early_copy.h"

namespace parallax::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void EarlyCopyKernel(const uint16_t* from, uint16_t* to, int64_t count) {
  LetNextKernelStart();
  WaitForPrecedingKernel();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = from[i];
}

}  // namespace

void EarlyCopy(const uint16_t* from, uint16_t* to, int64_t count, const Stream& stream) {
  const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  LaunchEarly("EarlyCopy", EarlyCopyKernel, dim3(blocks), kThreads, stream, from, to, count);
}

}  // namespace parallax::kernels::cuda
