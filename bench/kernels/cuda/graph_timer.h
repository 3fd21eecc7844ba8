// Time of GPU operations: graphs of launches between two events, with L2 swept before each.
// gpu_timing.py times the peers in the same way.
//
// Thread safety: none; one thread uses a timer and its stream. Errors: KernelError.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_GRAPH_TIMER_H_
#define PARALLAX_BENCH_KERNELS_CUDA_GRAPH_TIMER_H_

#include <functional>
#include <vector>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/execution.h"
#include "kernels/stream.h"

namespace parallax::bench {

class GraphTimer {
 public:
  // Enqueues launch number i on stream(). The number lets a launch rotate over its inputs.
  using Launch = std::function<void(int i)>;

  explicit GraphTimer(int samples);

  const kernels::Stream& stream() const { return stream_.stream(); }
  void Synchronize() const { stream_.Synchronize(); }

  // Median microseconds of one launch of each operation, sampled in turns so that all see the
  // same clocks. `launches` of them make up a graph. cold: L2 is swept before every sample;
  // otherwise the graph runs once more.
  std::vector<double> Measure(const std::vector<Launch>& operations, int launches, bool cold);

 private:
  kernels::cuda::Graph Capture(const Launch& launch, int launches) const;
  double Sample(const kernels::cuda::Graph& graph, bool cold);

  const int samples_;
  kernels::cuda::OwnedStream stream_;
  kernels::cuda::DeviceBuffer sweep_;
  kernels::cuda::Event start_;
  kernels::cuda::Event end_;
};

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_GRAPH_TIMER_H_
