// A kernel launch's configuration: clusters, and an early start.
//
// Thread safety: each object is used by one thread at a time.
#ifndef PARALLAX_KERNELS_CUDA_KERNEL_LAUNCH_H_
#define PARALLAX_KERNELS_CUDA_KERNEL_LAUNCH_H_

#include <cuda_runtime_api.h>
#include <vector_types.h>

namespace parallax::kernels::cuda {

// For cudaLaunchKernelEx and cudaOccupancyMaxActiveClusters. `cluster`: CTAs of one, along x.
struct KernelLaunch {
  KernelLaunch(dim3 grid, int cluster, int threads, int shared_bytes,
               cudaStream_t stream = nullptr);
  KernelLaunch(const KernelLaunch&) = delete;
  KernelLaunch& operator=(const KernelLaunch&) = delete;

  // Lets the kernel start while the one before it on the stream drains (programmatic_launch.cuh).
  void AllowProgrammatic();

  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2];  // that the configuration points to
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_KERNEL_LAUNCH_H_
