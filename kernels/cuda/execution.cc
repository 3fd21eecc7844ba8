#include "kernels/cuda/execution.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "kernels/cuda/cuda_error.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "execution";

CUstream_st* MakeStream() {
  cudaStream_t stream = nullptr;
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), kOp, "cudaStreamCreate");
  return stream;
}

}  // namespace

OwnedStream::OwnedStream(int device_index)
    : owned_(MakeStream()), stream_(device_index, owned_.get()) {}

void OwnedStream::Synchronize() const {
  CheckCuda(cudaStreamSynchronize(owned_.get()), kOp, "cudaStreamSynchronize");
}

void OwnedStream::Destroy::operator()(CUstream_st* stream) const { cudaStreamDestroy(stream); }

Event::Event() {
  cudaEvent_t event = nullptr;
  CheckCuda(cudaEventCreateWithFlags(&event, cudaEventBlockingSync), kOp, "cudaEventCreate");
  event_.reset(event);
}

void Event::Record(const Stream& stream) {
  CheckCuda(cudaEventRecord(event_.get(), stream.cuda_stream()), kOp, "cudaEventRecord");
}

void Event::Synchronize() const {
  CheckCuda(cudaEventSynchronize(event_.get()), kOp, "cudaEventSynchronize");
}

void Event::HoldBack(const Stream& stream) const {
  CheckCuda(cudaStreamWaitEvent(stream.cuda_stream(), event_.get()), kOp, "cudaStreamWaitEvent");
}

float Event::ElapsedMilliseconds(const Event& begin, const Event& end) {
  float milliseconds = 0.0f;
  CheckCuda(cudaEventElapsedTime(&milliseconds, begin.event_.get(), end.event_.get()), kOp,
            "cudaEventElapsedTime");
  return milliseconds;
}

void Event::Destroy::operator()(CUevent_st* event) const { cudaEventDestroy(event); }

Graph Graph::Capture(const Stream& stream, const std::function<void()>& enqueue) {
  CheckCuda(cudaStreamBeginCapture(stream.cuda_stream(), cudaStreamCaptureModeThreadLocal), kOp,
            "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    cudaStreamEndCapture(stream.cuda_stream(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  CheckCuda(cudaStreamEndCapture(stream.cuda_stream(), &graph), kOp, "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t instantiated = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  CheckCuda(instantiated, kOp, "cudaGraphInstantiate");
  Graph result;
  result.exec_.reset(exec);
  CheckCuda(cudaGraphUpload(exec, stream.cuda_stream()), kOp, "cudaGraphUpload");
  return result;
}

void Graph::Launch(const Stream& stream) const {
  CheckCuda(cudaGraphLaunch(exec_.get(), stream.cuda_stream()), kOp, "cudaGraphLaunch");
}

void Graph::Destroy::operator()(CUgraphExec_st* graph) const { cudaGraphExecDestroy(graph); }

double PeakBytesPerSecond(int device_index) {
  int kilohertz = 0;
  int bus_bits = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device_index) != cudaSuccess ||
      cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, device_index) !=
          cudaSuccess) {
    return 0.0;
  }
  return 2.0 * 1e3 * kilohertz * bus_bits / 8;  // two transfers a clock
}

double PeakBf16FlopsPerSecond(int device_index) {
  constexpr double kFlopsPerClock = 4096.0;  // of a Hopper multiprocessor, dense
  int major = 0;
  int multiprocessors = 0;
  int kilohertz = 0;
  for (const auto& [value, attribute] :
       {std::pair{&major, cudaDevAttrComputeCapabilityMajor},
        std::pair{&multiprocessors, cudaDevAttrMultiProcessorCount},
        std::pair{&kilohertz, cudaDevAttrClockRate}}) {
    if (cudaDeviceGetAttribute(value, attribute, device_index) != cudaSuccess) return 0.0;
  }
  return major == 9 ? kFlopsPerClock * multiprocessors * 1e3 * kilohertz : 0.0;
}

}  // namespace parallax::kernels::cuda
