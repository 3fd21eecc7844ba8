// The machine's streaming read bandwidth: the yardstick of every memory-bound kernel.
#ifndef PARALLAX_BENCH_KERNELS_READ_BANDWIDTH_H_
#define PARALLAX_BENCH_KERNELS_READ_BANDWIDTH_H_

#include <cstddef>

#include "kernels/cpu/thread_pool.h"

namespace parallax::bench {

// Far above any last-level cache this is likely to run on.
inline constexpr size_t kReadBufferBytes = size_t{1} << 30;

// Bytes per second at which all threads of the pool together sum a buffer of
// kReadBufferBytes; the best of `repetitions` passes.
double MeasureReadBandwidth(kernels::ThreadPool& pool, int repetitions = 5);

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_READ_BANDWIDTH_H_
