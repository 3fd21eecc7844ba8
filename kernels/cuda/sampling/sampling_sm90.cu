// Sampling by clusters of blocks, for few rows. For Hopper.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sampling/sample_args.h"
#include "kernels/cuda/sampling/sample_row.cuh"

namespace parallax::kernels::cuda {
namespace {

struct ClusterGroup {
  static constexpr int kBlocks = kSampleClusterBlocks;
  __device__ int rank() const {
    return static_cast<int>(cooperative_groups::this_cluster().block_rank());
  }
  __device__ void Sync() const { cooperative_groups::this_cluster().sync(); }
  template <typename T>
  __device__ T* Remote(T* pointer, int rank) const {
    return cooperative_groups::this_cluster().map_shared_rank(pointer, rank);
  }
};

using Shared = SampleShared<ClusterGroup>;

__global__ void __cluster_dims__(kSampleClusterBlocks) __launch_bounds__(kSampleThreads, 2)
    SampleClusterKernel(const __grid_constant__ SampleArgs args) {
  extern __shared__ __align__(16) char shared[];
  const ClusterGroup group;
  group.Sync();  // nobody writes to a block that has not started
  RowSampler<ClusterGroup>(args, blockIdx.x / kSampleClusterBlocks, group,
                           *reinterpret_cast<Shared*>(shared))
      .Run();
  group.Sync();  // ... nor reads one that has gone
}

}  // namespace

void LaunchSampleCluster(const SampleArgs& args, cudaStream_t stream) {
  CheckCuda(cudaFuncSetAttribute(SampleClusterKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 sizeof(Shared)),
            "Sample", "shared memory");
  SampleClusterKernel<<<args.num_rows * kSampleClusterBlocks, kSampleThreads, sizeof(Shared),
                        stream>>>(args);
  CheckLaunch("Sample");
}

}  // namespace parallax::kernels::cuda
