#include "kernels/cuda/linear/launch_clock.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>

#include "kernels/cuda/cuda_error.h"

namespace parallax::kernels::cuda {
namespace {

void CheckClock(cudaError_t error) { CheckCuda(error, "LinearPlans", "timing"); }

template <auto kDestroy>
struct Destroyer {
  template <typename Handle>
  void operator()(Handle* handle) const {
    kDestroy(handle);
  }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Destroyer<cudaGraphDestroy>>;
using GraphExec =
    std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroyer<cudaGraphExecDestroy>>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroyer<cudaEventDestroy>>;

Graph Capture(cudaStream_t stream, const std::function<void()>& launch) {
  CheckClock(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    launch();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  CheckClock(cudaStreamEndCapture(stream, &graph));
  return Graph(graph);
}

Event MakeEvent() {
  cudaEvent_t event = nullptr;
  CheckClock(cudaEventCreate(&event));
  return Event(event);
}

}  // namespace

double TimeLaunches(const Stream& stream, int replays, const std::function<void()>& launch) {
  const Graph graph = Capture(stream.cuda_stream(), launch);
  cudaGraphExec_t instance = nullptr;
  CheckClock(cudaGraphInstantiate(&instance, graph.get(), 0));
  const GraphExec executable(instance);
  const Event begin = MakeEvent();
  const Event end = MakeEvent();
  float least = std::numeric_limits<float>::infinity();
  for (int i = 0; i <= replays; ++i) {
    CheckClock(cudaEventRecord(begin.get(), stream.cuda_stream()));
    CheckClock(cudaGraphLaunch(executable.get(), stream.cuda_stream()));
    CheckClock(cudaEventRecord(end.get(), stream.cuda_stream()));
    CheckClock(cudaEventSynchronize(end.get()));
    float milliseconds = 0.0f;
    CheckClock(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
    if (i > 0) least = std::min(least, milliseconds);
  }
  return least;
}

}  // namespace parallax::kernels::cuda
