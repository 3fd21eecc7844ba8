// What a step needs of CUDA beside its ops: a stream of its own, events, captured graphs.
//
// Thread safety: each object is used by one thread at a time.
// Errors: KernelError with CUDA's text. After an error of a kernel the device context is lost:
// every later call of the process reports it again.
#ifndef PARALLAX_KERNELS_CUDA_EXECUTION_H_
#define PARALLAX_KERNELS_CUDA_EXECUTION_H_

#include <functional>
#include <memory>

#include "kernels/stream.h"

struct CUevent_st;      // what a cudaEvent_t points to
struct CUgraphExec_st;  // what a cudaGraphExec_t points to

namespace parallax::kernels::cuda {

// A stream of the current device that does not wait for the default stream.
class OwnedStream {
 public:
  explicit OwnedStream(int device_index);

  const Stream& stream() const { return stream_; }
  // Blocks until everything enqueued has run.
  void Synchronize() const;

 private:
  struct Destroy {
    void operator()(CUstream_st* stream) const;
  };
  std::unique_ptr<CUstream_st, Destroy> owned_;
  Stream stream_;
};

// A point on a stream. Waiting blocks the thread and leaves the core to others.
class Event {
 public:
  Event();

  void Record(const Stream& stream);
  void Synchronize() const;
  // What is enqueued on the stream from here on runs after the event.
  void HoldBack(const Stream& stream) const;
  // Between two events that have both been reached.
  static float ElapsedMilliseconds(const Event& begin, const Event& end);

 private:
  struct Destroy {
    void operator()(CUevent_st* event) const;
  };
  std::unique_ptr<CUevent_st, Destroy> event_;
};

// The kernels that one call enqueues, to be replayed as one launch.
class Graph {
 public:
  Graph() = default;
  // Captures what `enqueue` puts on the stream, which must not be in use.
  static Graph Capture(const Stream& stream, const std::function<void()>& enqueue);

  void Launch(const Stream& stream) const;

 private:
  struct Destroy {
    void operator()(CUgraphExec_st* graph) const;
  };
  std::unique_ptr<CUgraphExec_st, Destroy> exec_;
};

// The most that the device's memory can move, by its clock and bus width. 0 if it does not say.
double PeakBytesPerSecond(int device_index);

// The most bf16 multiplications and additions on Hopper's matrix units, by their number and the
// highest clock. 0 on other GPUs.
double PeakBf16FlopsPerSecond(int device_index);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_EXECUTION_H_
