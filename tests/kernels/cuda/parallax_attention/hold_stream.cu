#include "kernels/cuda/programmatic_launch.cuh"
#include "tests/kernels/cuda/parallax_attention/hold_stream.h"

namespace parallax::kernels::cuda {
namespace {

__device__ int64_t Nanoseconds() {
  int64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__global__ void HoldKernel(int64_t nanoseconds) {
  const int64_t end = Nanoseconds() + nanoseconds;
  LetNextKernelStart();
  while (Nanoseconds() < end) continue;
}

}  // namespace

void HoldStream(int64_t nanoseconds, cudaStream_t stream) {
  HoldKernel<<<1, 1, 0, stream>>>(nanoseconds);
  CheckLaunch("HoldStream");
}

}  // namespace parallax::kernels::cuda
