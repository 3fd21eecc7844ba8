// Kernels the benchmark itself needs: filling memory with noise and reading it, which is the
// ceiling of every memory-bound kernel.
//
// Thread safety: as Stream. Errors: KernelError.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_MEMORY_KERNELS_H_
#define PARALLAX_BENCH_KERNELS_CUDA_MEMORY_KERNELS_H_

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/stream.h"

namespace parallax::bench {

// Standard normal noise; element i depends on seed and i alone. `elements` is even.
void FillNormal(__nv_bfloat16* data, size_t elements, uint32_t seed, const kernels::Stream& stream);

// Reads `bytes` (a multiple of 16) with 16-byte loads and keeps nothing.
void ReadMemory(const void* data, size_t bytes, const kernels::Stream& stream);

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_MEMORY_KERNELS_H_
