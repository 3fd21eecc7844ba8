// Sampling by clusters of blocks, for few rows. For Hopper.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sampling/sample_args.h"
#include "kernels/cuda/sampling/sample_row.cuh"

namespace parallax::kernels::cuda {
namespace {

template <int kClusterBlocks>
struct ClusterGroup {
  static constexpr int kBlocks = kClusterBlocks;
  __device__ int rank() const {
    return static_cast<int>(cooperative_groups::this_cluster().block_rank());
  }
  __device__ void Sync() const { cooperative_groups::this_cluster().sync(); }
  template <typename T>
  __device__ T* Remote(T* pointer, int rank) const {
    return cooperative_groups::this_cluster().map_shared_rank(pointer, rank);
  }
};

template <int kBlocks>
__global__ void __cluster_dims__(kBlocks) __launch_bounds__(kSampleThreads, 2)
    SampleClusterKernel(const __grid_constant__ SampleArgs args) {
  using Group = ClusterGroup<kBlocks>;
  extern __shared__ __align__(16) char shared[];
  const Group group;
  group.Sync();  // nobody writes to a block that has not started
  RowSampler<Group>(args, blockIdx.x / kBlocks, group,
                    *reinterpret_cast<SampleShared<Group>*>(shared))
      .Run();
  group.Sync();  // ... nor reads one that has gone
}

template <int kBlocks>
void Launch(const SampleArgs& args, cudaStream_t stream) {
  constexpr size_t kSharedBytes = sizeof(SampleShared<ClusterGroup<kBlocks>>);
  CheckCuda(cudaFuncSetAttribute(SampleClusterKernel<kBlocks>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
            "Sample", "shared memory");
  SampleClusterKernel<kBlocks>
      <<<args.num_rows * kBlocks, kSampleThreads, kSharedBytes, stream>>>(args);
  CheckLaunch("Sample");
}

}  // namespace

void LaunchSampleCluster(const SampleArgs& args, int blocks, cudaStream_t stream) {
  switch (blocks) {
    case 2:
      return Launch<2>(args, stream);
    case 4:
      return Launch<4>(args, stream);
    default:
      return Launch<8>(args, stream);
  }
}

}  // namespace parallax::kernels::cuda
