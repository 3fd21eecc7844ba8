// Kernels that keep those behind them waiting and tell when they ran, for tests of what starts
// when.
//
// Errors: KernelError for a launch that is refused.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_HOLD_STREAM_H_
#define PARALLAX_TESTS_KERNELS_CUDA_HOLD_STREAM_H_

#include <cstdint>

#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// One thread that lets the next kernel start at once and ends after `nanoseconds`. The GPU's clock
// at its end, in nanoseconds, goes to `ended`, device memory, unless that is null.
void HoldStream(int64_t nanoseconds, const Stream& stream, int64_t* ended = nullptr);

// One thread that starts as early as the kernel before it lets it, and notes when that is.
void RecordStart(int64_t* started, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_HOLD_STREAM_H_
