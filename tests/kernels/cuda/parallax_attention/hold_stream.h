// A kernel that keeps those behind it waiting, for tests of what they do meanwhile.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_HOLD_STREAM_H_
#define PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_HOLD_STREAM_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace parallax::kernels::cuda {

// One thread that lets the next kernel start at once and ends after `nanoseconds`.
void HoldStream(int64_t nanoseconds, cudaStream_t stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_PARALLAX_ATTENTION_HOLD_STREAM_H_
