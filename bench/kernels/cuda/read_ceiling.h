// What a plain read of device memory reaches: the ceiling of everything that is bound by it.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_READ_CEILING_H_
#define PARALLAX_BENCH_KERNELS_CUDA_READ_CEILING_H_

#include <cstddef>

namespace parallax::bench {

// Bytes a second, median of a few reads of `bytes` (several times the L2's size) at `data`, by
// 16-byte loads. Errors: KernelError.
double ReadBytesPerSecond(const void* data, size_t bytes);

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_READ_CEILING_H_
