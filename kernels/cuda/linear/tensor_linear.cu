// The linear layer for up to 128 tokens on Hopper. See kernels/cuda/linear.h.
//
// W is the matrix unit's A operand and x its B: 64 outputs a warpgroup by all tokens, padded. One
// warp copies steps of 64 inputs, of W and of x, into a ring of stages; two warpgroups multiply. A
// tile's inputs are cut over a cluster's CTAs, whose sums meet in distributed shared memory: a CTA
// reads only its part of x, and small matrices have enough CTAs. Where the CTAs of a cluster take
// several tiles, their parts of x may stay.
#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/linear_params.h"
#include "kernels/cuda/linear/tensor_args.h"
#include "kernels/cuda/linear/tensor_consumer.cuh"
#include "kernels/cuda/linear/tensor_launch.h"
#include "kernels/cuda/linear/tensor_map.h"
#include "kernels/cuda/linear/tensor_producer.cuh"
#include "kernels/cuda/linear/tensor_shared.cuh"
#include "kernels/cuda/linear/tensor_split.h"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/ptx/cluster_start.cuh"
#include "kernels/cuda/ptx/ptx.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "TensorLinear";

template <int kTokens, LinearEpilogue kEpilogue, typename Y>
__global__ void __launch_bounds__(kTensorThreads, TensorCtasPerSm(kTokens))
    TensorLinearKernel(const __grid_constant__ TensorArgs args) {
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const TensorShared<kTokens> shared(args, SharedAddress(dynamic_shared));
  const TensorPart part(args);
  const int warp = threadIdx.x / 32;
  const bool copies = threadIdx.x == 32 * kTensorConsumerWarps;
  if (copies) {
    PrefetchTensorMap(args.weight);
    PrefetchTensorMap(args.x);
  }
  LetNextKernelStart();
  InitTensorBarriers(args, shared);
  const bool in_cluster = args.cluster_shift > 0;
  if (in_cluster) {
    // Only the first warp has barriers to show to its peers.
    if (warp == 0) {
      ArriveAtPeers();
    } else {
      ArriveAtPeersRelaxed();
    }
    MeetForSanitizer();
  }
  if (warp == kTensorConsumerWarps) {
    if (copies) {
      TensorProducer<kTokens, kEpilogue == LinearEpilogue::kSiluAndMul>(args, part, shared).Run();
    }
    __syncwarp();
    if (in_cluster) AwaitPeers();
    return;
  }
  WaitForPrecedingKernel();
  TensorConsumer<kTokens, kEpilogue, Y>(args, part, shared).Run();
}

using Kernel = void (*)(TensorArgs);

template <LinearEpilogue kEpilogue, typename Y, int... kCounts>
Kernel KernelOf(int padded_tokens, std::integer_sequence<int, kCounts...>) {
  Kernel kernel = nullptr;
  ((kernel = padded_tokens == kCounts ? TensorLinearKernel<kCounts, kEpilogue, Y> : kernel), ...);
  return kernel;
}

template <LinearEpilogue kEpilogue, typename Y>
Kernel KernelFor(int padded_tokens) {
  return KernelOf<kEpilogue, Y>(padded_tokens, PaddedTokenCounts());
}

Kernel KernelFor(const LinearParams& p, int padded_tokens) {
  switch (p.epilogue) {
    case LinearEpilogue::kAccumulate:
      return KernelFor<LinearEpilogue::kAccumulate, float>(padded_tokens);
    case LinearEpilogue::kSiluAndMul:
      return KernelFor<LinearEpilogue::kSiluAndMul, __nv_bfloat16>(padded_tokens);
    default:
      return p.y_dtype == DType::kFloat32
                 ? KernelFor<LinearEpilogue::kStore, float>(padded_tokens)
                 : KernelFor<LinearEpilogue::kStore, __nv_bfloat16>(padded_tokens);
  }
}

template <LinearEpilogue kEpilogue, typename Y, int... kCounts>
void PrepareWidths(std::integer_sequence<int, kCounts...>) {
  (PrepareKernel(kOp, reinterpret_cast<const void*>(TensorLinearKernel<kCounts, kEpilogue, Y>)),
   ...);
}

void PrepareKernels() {
  PrepareWidths<LinearEpilogue::kStore, float>(PaddedTokenCounts());
  PrepareWidths<LinearEpilogue::kStore, __nv_bfloat16>(PaddedTokenCounts());
  PrepareWidths<LinearEpilogue::kAccumulate, float>(PaddedTokenCounts());
  PrepareWidths<LinearEpilogue::kSiluAndMul, __nv_bfloat16>(PaddedTokenCounts());
}

// No formula gives the clusters that fit: which SMs of a GPU are switched off differs. REQUIRES:
// the kernels are prepared.
TensorDevice ReadDevice(int device) {
  TensorDevice limits;
  limits.num_sms = DeviceAttribute(kOp, cudaDevAttrMultiProcessorCount, device);
  const Kernel kernel = TensorLinearKernel<8, LinearEpilogue::kStore, float>;
  for (int ctas_per_sm : {1, 2}) {
    for (int shift = 0; 1 << shift <= kTensorMaxCluster; ++shift) {
      int& clusters = limits.clusters[shift][ctas_per_sm - 1];
      clusters = limits.num_sms * ctas_per_sm;
      if (shift == 0) continue;
      const KernelLaunch launch(1 << shift, 1 << shift, kTensorThreads,
                                TensorSharedBytes(ctas_per_sm));
      CheckCuda(cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config), kOp,
                "clusters that fit");
    }
  }
  return limits;
}

// Facts of the GPUs, asked once each; the kernels are ready then.
const TensorDevice& PreparedDevice(int device) {
  static std::mutex mutex;
  static std::map<int, TensorDevice> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  PrepareKernels();
  return known.emplace(device, ReadDevice(device)).first->second;
}

TensorArgs MakeArgs(const LinearParams& p, const TensorLinearSplit& split, const TensorShape& shape,
                    const TensorLayout& layout) {
  TensorArgs args;
  // A line of 256 bytes is two neighbouring steps of a row: the other one is wanted next.
  constexpr CUtensorMapL2promotion kPromotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  args.weight =
      IsGated(p) ? InterleavedHalvesMap(p.weight, p.num_inputs, p.num_outputs / 2, kTensorTileRows)
                 : MatrixMap(p.weight, p.num_inputs, p.num_outputs, p.num_inputs, kTensorTileRows,
                             kPromotion);
  args.x = MatrixMap(p.x, p.num_inputs, p.tokens, XStride(p), shape.tokens, kPromotion);
  args.bias = p.bias;
  args.y = p.y;
  args.y_stride = YStride(p);
  args.tokens = p.tokens;
  args.num_outputs = p.num_outputs;
  args.full_tiles = shape.tiles / layout.clusters;
  args.rest_tiles = shape.tiles % layout.clusters;
  args.steps = shape.steps;
  args.cluster_shift = std::countr_zero(static_cast<unsigned>(split.cluster));
  args.stages = layout.stages;
  args.keep_x = split.keep_x;
  args.x_offset = layout.x_offset;
  args.sums_offset = layout.sums_offset;
  args.barriers_offset = layout.barriers_offset;
  return args;
}

}  // namespace

std::vector<TensorLinearSplit> TensorLinearSplits(const LinearParams& params, int device) {
  if (!IsHopper(kOp, device) || !TakesShape(params, kMaxTensorTokens)) return {};
  return RankedSplits(TensorShape(params), PreparedDevice(device));
}

bool TensorLinearTakes(const LinearParams& params, const TensorLinearSplit& split, int device) {
  return IsHopper(kOp, device) && TakesShape(params, kMaxTensorTokens) &&
         LayOut(TensorShape(params), split, PreparedDevice(device)).has_value();
}

void TensorLinear(const LinearParams& params, const TensorLinearSplit& split,
                  const Stream& stream) {
  Check(stream.device().type == DeviceType::kCuda, kOp, "stream", "a GPU's, device type", -1);
  const int device = stream.device().index;
  Check(IsHopper(kOp, device), kOp, "device", "of compute capability 9.x, ordinal", device);
  CheckTensorParams(kOp, params, kMaxTensorTokens);
  const TensorShape shape(params);
  const std::optional<TensorLayout> layout = LayOut(shape, split, PreparedDevice(device));
  Check(layout.has_value(), kOp, "split", "one that fits; CTAs in a cluster", split.cluster);

  const TensorArgs args = MakeArgs(params, split, shape, *layout);
  const Kernel kernel = KernelFor(params, shape.tokens);
  KernelLaunch launch(layout->clusters * split.cluster, split.cluster, kTensorThreads,
                      layout->bytes, stream.cuda_stream());
  if (params.programmatic_launch) launch.AllowProgrammatic();
  CheckCuda(cudaLaunchKernelEx(&launch.config, kernel, args), kOp, "launch");
}

}  // namespace parallax::kernels::cuda
