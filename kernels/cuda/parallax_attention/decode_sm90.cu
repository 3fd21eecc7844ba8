#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/parallax_attention/decode_launch.h"
#include "kernels/cuda/parallax_attention/decode_sm90.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr const char* kOp = "ParallaxDecode";

template <int kDim, int kTiles, int kClusterSize>
void Launch(const DecodeArgs& args, bool programmatic_launch, cudaStream_t stream) {
  const auto kernel = DecodeKernelSm90<kDim, kTiles, kClusterSize>;
  constexpr int kSharedBytes = sizeof(DecodeShared<kDim, kTiles, kClusterSize>) + 1024;
  static_assert(kSharedBytes <= kSharedBytesHopper);
  static_assert(DecodePartialsOfCluster({kDim, kTiles, kClusterSize}) ==
                2 * kClusterSize * DecodeShape<kDim, kTiles, kClusterSize>::kPartialSize);
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
            kOp, "cudaFuncSetAttribute");
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(args.num_clusters * kClusterSize);
  config.blockDim = dim3(kDecodeThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  if (kClusterSize > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = kClusterSize;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  }
  if (programmatic_launch) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  CheckCuda(cudaLaunchKernelEx(&config, kernel, args), kOp, "launch");
}

template <int kDim, int kTiles>
void LaunchOfCluster(const DecodeArgs& args, const DecodeVariant& variant, cudaStream_t stream) {
  if (variant.cluster_size == 1) {
    Launch<kDim, kTiles, 1>(args, variant.programmatic_launch, stream);
  } else {
    Launch<kDim, kTiles, 8>(args, variant.programmatic_launch, stream);
  }
}

template <int kDim>
void LaunchOfTiles(const DecodeArgs& args, const DecodeVariant& variant, cudaStream_t stream) {
  if (variant.tiles == 1) {
    LaunchOfCluster<kDim, 1>(args, variant, stream);
  } else {
    LaunchOfCluster<kDim, 2>(args, variant, stream);
  }
}

}  // namespace

void LaunchDecodeSm90(const DecodeArgs& args, const DecodeVariant& variant, cudaStream_t stream) {
  if (variant.head_dim == 64) {
    LaunchOfTiles<64>(args, variant, stream);
  } else {
    LaunchOfTiles<128>(args, variant, stream);
  }
}

}  // namespace parallax::kernels::cuda
