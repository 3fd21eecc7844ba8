// Where and in what order ops run.
//
// On the CPU a stream refers to a thread pool, and an op has finished when its function
// returns. On a GPU it refers to a CUDA stream, and ops are only enqueued.
//
// Thread safety: a value. Ops on one stream are issued by one thread at a time.
#ifndef PARALLAX_KERNELS_STREAM_H_
#define PARALLAX_KERNELS_STREAM_H_

#include "kernels/device.h"

struct CUstream_st;  // what a cudaStream_t points to

namespace parallax::kernels {

class ThreadPool;  // kernels/cpu/thread_pool.h

class Stream {
 public:
  // A CPU stream over `pool`, which must outlive it.
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}

  // A stream of GPU `device_index`; null is that device's default stream.
  Stream(int device_index, CUstream_st* cuda_stream)
      : device_{DeviceType::kCuda, device_index}, cuda_stream_(cuda_stream) {}

  Device device() const { return device_; }

  // REQUIRES: device().type == DeviceType::kCpu.
  ThreadPool& thread_pool() const { return *pool_; }

  // REQUIRES: device().type == DeviceType::kCuda.
  CUstream_st* cuda_stream() const { return cuda_stream_; }

 private:
  Device device_;
  ThreadPool* pool_ = nullptr;
  CUstream_st* cuda_stream_ = nullptr;
};

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_STREAM_H_
