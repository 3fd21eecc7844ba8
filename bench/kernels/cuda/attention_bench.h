// Times Parallax attention (and, with the probe off, softmax attention) on one case.
//
// Thread safety: none. Errors: KernelError; a result that differs from fp64 is one.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_ATTENTION_BENCH_H_
#define PARALLAX_BENCH_KERNELS_CUDA_ATTENTION_BENCH_H_

#include <cstddef>
#include <optional>

#include "bench/kernels/cuda/attention_problem.h"
#include "bench/kernels/cuda/bench_case.h"
#include "bench/kernels/cuda/graph_timer.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_properties.h"

namespace parallax::bench {

struct AttentionTimes {
  double parallax_us = 0.0;
  double softmax_us = 0.0;  // the same kernel without r
  double read_us = 0.0;     // a plain read of the same K and V, in the same loop
  // Decode alone: Parallax with each launch's start overlapping its predecessor's end.
  std::optional<double> programmatic_us;
  bool held = false;  // a server does not let such a launch start as early as it could
  double parallax_error = 0.0;
  double softmax_error = 0.0;
};

class AttentionBench {
 public:
  AttentionBench(int samples, size_t pool_bytes);

  AttentionTimes Run(const BenchCase& bench_case);

 private:
  enum class Variant { kParallax, kSoftmax, kProgrammatic };

  kernels::cuda::DeviceBuffer MakeWorkspace(const BenchCase& bench_case) const;
  GraphTimer::Launch Attention(const BenchCase& bench_case, const AttentionProblem& problem,
                               const kernels::cuda::DeviceBuffer& workspace, Variant variant) const;
  double CheckedError(const GraphTimer::Launch& attention, const AttentionProblem& problem,
                      bool softmax) const;

  kernels::cuda::DeviceProperties device_;
  KvPool pool_;
  GraphTimer timer_;
};

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_ATTENTION_BENCH_H_
