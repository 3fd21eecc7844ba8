#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "bench/kernels/cuda/launch_timer.h"
#include "bench/kernels/cuda/read_ceiling.h"

namespace parallax::bench {
namespace {

constexpr int kThreads = 512;

__global__ void __launch_bounds__(kThreads) ReadAll(const uint4* data, size_t count, uint4* out) {
  const size_t stride = size_t{gridDim.x} * kThreads;
  uint4 mixed = {};
  const auto mix = [&](uint4 v) {
    mixed = {mixed.x ^ v.x, mixed.y ^ v.y, mixed.z ^ v.z, mixed.w ^ v.w};
  };
  for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i + 3 * stride < count;
       i += 4 * stride) {
    const uint4 loaded[4] = {data[i], data[i + stride], data[i + 2 * stride], data[i + 3 * stride]};
    for (const uint4& v : loaded) mix(v);
  }
  // Never true of zeros, but the compiler does not know: the loads must stay.
  if (mixed.x == 0x12345678u && mixed.y == 0x9abcdef0u) *out = mixed;
}

}  // namespace

double ReadBytesPerSecond(const void* data, size_t bytes) {
  double best = 0.0;
  for (const int grid : {132 * 4, 132 * 8, 132 * 16}) {
    const double microseconds = MedianMicroseconds(1, 5, [&](const kernels::Stream& stream, int) {
      ReadAll<<<grid, kThreads, 0, stream.cuda_stream()>>>(static_cast<const uint4*>(data),
                                                           bytes / sizeof(uint4), nullptr);
    });
    best = std::max(best, static_cast<double>(bytes) / microseconds * 1e6);
  }
  return best;
}

}  // namespace parallax::bench
