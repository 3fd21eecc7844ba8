// Where and in what order ops run.
//
// On the CPU a stream refers to a thread pool, and an op has finished when its function
// returns. A CUDA stream will hold a cudaStream_t, and ops will only be enqueued.
//
// Thread safety: a value. Ops on one stream are issued by one thread at a time.
#ifndef PARALLAX_KERNELS_STREAM_H_
#define PARALLAX_KERNELS_STREAM_H_

#include "kernels/device.h"

namespace parallax::kernels {

class ThreadPool;  // kernels/cpu/thread_pool.h

class Stream {
 public:
  // A CPU stream over `pool`, which must outlive it.
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}

  Device device() const { return device_; }

  // REQUIRES: device().type == DeviceType::kCpu.
  ThreadPool& thread_pool() const { return *pool_; }

 private:
  Device device_;
  ThreadPool* pool_;
};

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_STREAM_H_
