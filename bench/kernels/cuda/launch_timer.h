// Times launches inside a captured CUDA graph, so that what is measured is the GPU's work and
// not the host's.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_LAUNCH_TIMER_H_
#define PARALLAX_BENCH_KERNELS_CUDA_LAUNCH_TIMER_H_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/cuda/cuda_error.h"
#include "kernels/stream.h"

namespace parallax::bench {

// Median microseconds of one of `launches` calls launch(stream, i), i = 0 .. launches - 1,
// captured into one graph; the caller rotates its buffers over i to keep them out of the cache.
inline double MedianMicroseconds(int launches, int samples,
                                 const std::function<void(const kernels::Stream&, int)>& launch) {
  const auto check = [](cudaError_t error) {
    kernels::cuda::CheckCuda(error, "MedianMicroseconds", "timing");
  };
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const kernels::Stream ops_stream(0, stream);
  cudaGraph_t graph;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < launches; ++i) launch(ops_stream, i);
  check(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable;
  check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin;
  cudaEvent_t end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  for (int i = 0; i < 2; ++i) check(cudaGraphLaunch(executable, stream));
  std::vector<double> times;
  for (int i = 0; i < samples; ++i) {
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(executable, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    times.push_back(1000.0 * milliseconds / launches);
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
  std::nth_element(times.begin(), times.begin() + samples / 2, times.end());
  return times[samples / 2];
}

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_LAUNCH_TIMER_H_
