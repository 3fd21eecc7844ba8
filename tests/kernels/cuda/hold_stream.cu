#include "kernels/cuda/programmatic_launch.cuh"
#include "tests/kernels/cuda/hold_stream.h"

namespace parallax::kernels::cuda {
namespace {

__device__ int64_t Nanoseconds() {
  int64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__global__ void HoldKernel(int64_t nanoseconds, int64_t* ended) {
  const int64_t end = Nanoseconds() + nanoseconds;
  LetNextKernelStart();
  while (Nanoseconds() < end) continue;
  if (ended != nullptr) *ended = Nanoseconds();
}

__global__ void RecordStartKernel(int64_t* started) { *started = Nanoseconds(); }

}  // namespace

void HoldStream(int64_t nanoseconds, const Stream& stream, int64_t* ended) {
  HoldKernel<<<1, 1, 0, stream.cuda_stream()>>>(nanoseconds, ended);
  CheckLaunch("HoldStream");
}

void RecordStart(int64_t* started, const Stream& stream) {
  LaunchEarly("RecordStart", RecordStartKernel, dim3(1), /*threads=*/1, stream, started);
}

}  // namespace parallax::kernels::cuda
