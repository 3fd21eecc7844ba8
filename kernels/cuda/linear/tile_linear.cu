// TileLinear on the host: what a layer's launch is. The kernels are in tile_kernel.cuh.
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
#include "kernels/cuda/linear/tensor_launch.h"
#include "kernels/cuda/linear/tensor_map.h"
#include "kernels/cuda/linear/tile_kernel.h"
#include "kernels/cuda/linear/tile_shared.cuh"
#include "kernels/cuda/linear/tile_split.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "TileLinear";

TileKernel KernelFor(TileOutput output, int width) {
  switch (output) {
    case TileOutput::kFloat32:
      return TileKernelFor<TileOutput::kFloat32>(width);
    case TileOutput::kSiluAndMul:
      return TileKernelFor<TileOutput::kSiluAndMul>(width);
    default:
      return TileKernelFor<TileOutput::kBFloat16>(width);
  }
}

TileOutput OutputOf(const LinearParams& p) {
  if (IsGated(p)) return TileOutput::kSiluAndMul;
  return p.y_dtype == DType::kFloat32 ? TileOutput::kFloat32 : TileOutput::kBFloat16;
}

template <int... kWidths>
void PrepareWidths(std::integer_sequence<int, kWidths...>) {
  for (int width : {kWidths...}) {
    for (TileOutput output :
         {TileOutput::kBFloat16, TileOutput::kFloat32, TileOutput::kSiluAndMul}) {
      PrepareKernel(kOp, reinterpret_cast<const void*>(KernelFor(output, width)));
    }
  }
}

// No formula gives the clusters that fit: which SMs of a GPU are switched off differs. None of a
// size that is refused. REQUIRES: the kernels are prepared.
TileDevice ReadDevice(int device) {
  TileDevice limits;
  limits.clusters[1] = DeviceAttribute(kOp, cudaDevAttrMultiProcessorCount, device);
  const TileKernel kernel = KernelFor(TileOutput::kBFloat16, kTileMaxWidth);
  for (int cluster = 2; cluster <= kTileMaxCluster; ++cluster) {
    const KernelLaunch launch(cluster, cluster, TileThreads(kTileMaxWarpgroups),
                              TensorSharedBytes(1));
    int& clusters = limits.clusters[cluster];
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config) == cudaSuccess) continue;
    clusters = 0;
    cudaGetLastError();  // is not the next call's
  }
  return limits;
}

// Facts of the GPUs, asked once each; the kernels are ready then.
const TileDevice& PreparedDevice(int device) {
  static std::mutex mutex;
  static std::map<int, TileDevice> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  PrepareWidths(TileWidths());
  return known.emplace(device, ReadDevice(device)).first->second;
}

TileArgs MakeArgs(const LinearParams& p, const TileLinearSplit& split, const TileShape& shape,
                  const TileLayout& layout) {
  TileArgs args;
  // A line of 256 bytes is two neighbouring steps of a row: the other one is wanted next.
  constexpr CUtensorMapL2promotion kPromotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  const int weight_rows = shape.warpgroups * kTileWarpgroupRows / split.sharers;
  args.weight =
      IsGated(p)
          ? InterleavedHalvesMap(p.weight, p.num_inputs, p.num_outputs / 2, weight_rows)
          : MatrixMap(p.weight, p.num_inputs, p.num_outputs, p.num_inputs, weight_rows, kPromotion);
  args.x = MatrixMap(p.x, p.num_inputs, p.tokens, XStride(p), layout.tile_tokens, kPromotion);
  args.bias = p.bias;
  args.y = p.y;
  args.y_stride = YStride(p);
  args.tokens = p.tokens;
  args.num_outputs = p.num_outputs;
  args.tile_tokens = layout.tile_tokens;
  args.token_groups = layout.token_groups;
  args.over_token_groups = ReciprocalOf(layout.token_groups);
  args.full_groups = layout.groups / layout.clusters;
  args.rest_groups = layout.groups % layout.clusters;
  args.sharers_shift = std::countr_zero(static_cast<unsigned>(split.sharers));
  args.input_parts = split.input_parts;
  for (int part = 0; part <= split.input_parts; ++part) {
    args.first_steps[part] = FirstOfPart(shape.steps, split.input_parts, part);
    args.first_sums[part] = FirstOfPart(layout.tile_tokens / 8, split.input_parts, part);
  }
  args.most_sums = layout.sum_groups;
  args.stages = layout.stages;
  args.barriers_offset = layout.barriers_offset;
  args.adds = p.epilogue == LinearEpilogue::kAccumulate;
  return args;
}

}  // namespace

std::vector<TileLinearSplit> TileLinearSplits(const LinearParams& params, int device) {
  if (!IsHopper(kOp, device) || !TakesShape(params, kMaxTileTokens)) return {};
  return RankedSplits(TileShape(params), PreparedDevice(device));
}

bool TileLinearTakes(const LinearParams& params, const TileLinearSplit& split, int device) {
  return IsHopper(kOp, device) && TakesShape(params, kMaxTileTokens) &&
         LayOut(TileShape(params), split, PreparedDevice(device)).has_value();
}

void TileLinear(const LinearParams& params, const TileLinearSplit& split, const Stream& stream) {
  Check(stream.device().type == DeviceType::kCuda, kOp, "stream", "a GPU's, device type", -1);
  const int device = stream.device().index;
  Check(IsHopper(kOp, device), kOp, "device", "of compute capability 9.x, ordinal", device);
  CheckTensorParams(kOp, params, kMaxTileTokens);
  const TileShape shape(params);
  const std::optional<TileLayout> layout = LayOut(shape, split, PreparedDevice(device));
  Check(layout.has_value(), kOp, "split", "one that fits; token tiles", split.token_tiles);

  const TileArgs args = MakeArgs(params, split, shape, *layout);
  const TileKernel kernel = KernelFor(OutputOf(params), layout->width);
  const int cluster = split.input_parts * split.sharers;
  KernelLaunch launch(dim3(cluster, layout->clusters), cluster, TileThreads(shape.warpgroups),
                      layout->bytes, stream.cuda_stream());
  if (params.programmatic_launch) launch.AllowProgrammatic();
  CheckCuda(cudaLaunchKernelEx(&launch.config, kernel, args), kOp, "launch");
}

}  // namespace parallax::kernels::cuda
