// Sampling by clusters of blocks, a row of logits in their shared memory. For Hopper.
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

using Shared = RankingShared<ClusterGroup>;
constexpr size_t kLogitsOffset = (sizeof(Shared) + 15) / 16 * 16;

__global__ void __cluster_dims__(kSampleClusterBlocks) __launch_bounds__(kSampleThreads, 2)
    SampleClusterKernel(const __grid_constant__ SampleArgs args) {
  extern __shared__ __align__(16) char shared[];
  const ClusterGroup group;
  group.Sync();  // nobody writes to a block that has not started
  RowSampler<ClusterGroup>(args, blockIdx.x / kSampleClusterBlocks, group,
                           *reinterpret_cast<Shared*>(shared),
                           reinterpret_cast<float*>(shared + kLogitsOffset))
      .Run();
}

}  // namespace

size_t SampleClusterSharedBytes(int part) { return kLogitsOffset + sizeof(float) * part; }

void LaunchSampleCluster(const SampleArgs& args, cudaStream_t stream) {
  const int bytes = static_cast<int>(SampleClusterSharedBytes(args.part));
  CheckCuda(
      cudaFuncSetAttribute(SampleClusterKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
      "Sample", "shared memory");
  SampleClusterKernel<<<args.num_rows * kSampleClusterBlocks, kSampleThreads, bytes, stream>>>(
      args);
  CheckLaunch("Sample");
}

}  // namespace parallax::kernels::cuda
