// The parts of cpu_kernels_bench.
#ifndef PARALLAX_BENCH_KERNELS_KERNEL_BENCHES_H_
#define PARALLAX_BENCH_KERNELS_KERNEL_BENCHES_H_

#include "bench/kernels/bench_report.h"
#include "kernels/cpu/thread_pool.h"

namespace parallax::bench {

// Decode-like products with few rows over weights far larger than the last-level cache, as a
// part of the read bandwidth, and prefill-size products against OpenBLAS.
void BenchLinear(kernels::ThreadPool& pool, BenchReport& report);

// Decode and prefill attention over a bf16 cache.
void BenchAttention(kernels::ThreadPool& pool, BenchReport& report);

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_KERNEL_BENCHES_H_
