// Sampling by one block a row, the logits in a workspace: for GPUs without clusters, and for
// vocabularies that do not fit on the chip.
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sampling/sample_args.h"
#include "kernels/cuda/sampling/sample_row.cuh"

namespace parallax::kernels::cuda {
namespace {

__global__ void __launch_bounds__(kSampleThreads, 2)
    SampleBlockKernel(const __grid_constant__ SampleArgs args) {
  __shared__ RankingShared<SingleBlock> shared;
  float* const logits = args.workspace + static_cast<int64_t>(blockIdx.x) * args.part;
  RowSampler<SingleBlock>(args, blockIdx.x, SingleBlock(), shared, logits).Run();
}

}  // namespace

void LaunchSampleBlock(const SampleArgs& args, cudaStream_t stream) {
  SampleBlockKernel<<<args.num_rows, kSampleThreads, 0, stream>>>(args);
  CheckLaunch("Sample");
}

}  // namespace parallax::kernels::cuda
