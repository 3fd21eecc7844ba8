#include <algorithm>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/cuda/parallax_attention/decode_launch.h"
#include "kernels/cuda/parallax_attention/decode_sm90.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr const char* kOp = "ParallaxDecode";

template <int kDim, int kTiles, int kClusterSize>
void Launch(DecodeArgs args, const DecodeVariant& variant, cudaStream_t stream) {
  const auto kernel = DecodeKernelSm90<kDim, kTiles, kClusterSize>;
  using Shape = DecodeShape<kDim, kTiles, kClusterSize>;
  using Shared = DecodeShared<kDim, kTiles, kClusterSize>;
  args.ring_slots =
      std::clamp(variant.form.ring_bytes / Shape::kBlockBytes, Shape::kMinRingSlots,
                 Shared::MaxSlots(std::min(variant.form.ctas_per_sm, Shape::kCtasPerSm)));
  const int shared_bytes = sizeof(Shared) + args.ring_slots * Shape::kBlockBytes;
  static_assert(DecodePartialsOfCluster(kDim, kTiles, kClusterSize) ==
                2 * kClusterSize * Shape::kPartialSize);
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
            kOp, "cudaFuncSetAttribute");
  KernelLaunch launch(args.num_clusters * kClusterSize, kClusterSize, kDecodeThreads, shared_bytes,
                      stream);
  if (variant.programmatic_launch) launch.AllowProgrammatic();
  CheckCuda(cudaLaunchKernelEx(&launch.config, kernel, args), kOp, "launch");
}

template <int kDim>
void LaunchOfDim(const DecodeArgs& args, const DecodeVariant& variant, cudaStream_t stream) {
  const auto launch = [&]<int kTiles, int kClusterSize>() {
    Launch<kDim, kTiles, kClusterSize>(args, variant, stream);
  };
  if (variant.tiles == 2) {
    if (variant.form.cluster_size == 1) return launch.template operator()<2, 1>();
    return launch.template operator()<2, 8>();
  }
  switch (variant.form.cluster_size) {
    case 1:
      return launch.template operator()<1, 1>();
    case 2:
      return launch.template operator()<1, 2>();
    case 4:
      return launch.template operator()<1, 4>();
    default:
      return launch.template operator()<1, 8>();
  }
}

}  // namespace

void LaunchDecodeSm90(const DecodeArgs& args, const DecodeVariant& variant, cudaStream_t stream) {
  if (variant.head_dim == 64) {
    LaunchOfDim<64>(args, variant, stream);
  } else {
    LaunchOfDim<128>(args, variant, stream);
  }
}

}  // namespace parallax::kernels::cuda
