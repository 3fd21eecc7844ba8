// Sampling by one block a row: for any GPU, and for many rows.
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sampling/sample_args.h"
#include "kernels/cuda/sampling/sample_row.cuh"

namespace parallax::kernels::cuda {
namespace {

using Shared = SampleShared<SingleBlock>;
static_assert(sizeof(Shared) <= 99 * 1024);  // what a block gets on every GPU from sm_80 up

__global__ void __launch_bounds__(kSampleThreads, 2)
    SampleBlockKernel(const __grid_constant__ SampleArgs args) {
  extern __shared__ __align__(16) char shared[];
  RowSampler<SingleBlock>(args, blockIdx.x, SingleBlock(), *reinterpret_cast<Shared*>(shared))
      .Run();
}

}  // namespace

void LaunchSampleBlock(const SampleArgs& args, cudaStream_t stream) {
  CheckCuda(cudaFuncSetAttribute(SampleBlockKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 sizeof(Shared)),
            "Sample", "shared memory");
  SampleBlockKernel<<<args.num_rows, kSampleThreads, sizeof(Shared), stream>>>(args);
  CheckLaunch("Sample");
}

}  // namespace parallax::kernels::cuda
