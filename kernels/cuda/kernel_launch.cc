#include "kernels/cuda/kernel_launch.h"

namespace parallax::kernels::cuda {

KernelLaunch::KernelLaunch(dim3 grid, int cluster, int threads, int shared_bytes,
                           cudaStream_t stream) {
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (cluster == 1) return;
  cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
}

void KernelLaunch::AllowProgrammatic() {
  cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
}

}  // namespace parallax::kernels::cuda
