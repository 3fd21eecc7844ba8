#include "kernels/cuda/linear/tile_split.h"

#include <algorithm>
#include <iterator>

namespace parallax::kernels::cuda {
namespace {

constexpr int kBarrierBytes = (2 * kTileMaxStages + 2) * 8;

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

template <int... kWidths>
int LeastOf(int tokens, std::integer_sequence<int, kWidths...>) {
  constexpr int kAscending[] = {kWidths...};
  return *std::lower_bound(std::begin(kAscending), std::end(kAscending) - 1, tokens);
}

bool IsKnown(const TileLinearSplit& split) {
  return split.token_tiles >= 1 && split.token_tiles <= kMaxTileTokens && split.input_parts >= 1 &&
         split.input_parts <= kTileMaxInputParts && split.sharers >= 1 &&
         split.sharers <= kTileMaxSharers && split.token_tiles % split.sharers == 0;
}

// An H200, by every split of three layers at 384, 416 and 480 tokens (bench/kernels/cuda/
// LOG-linear.md): the one that is expected first took at most 2.5 % longer than a layer's best.
//
// Of one CTA: what its tensor cores multiply, and the bytes that reach its SM. Shared memory bounds
// nothing, not even what two instructions read twice.
constexpr double kProductsPerNanosecond = 2048 * 1.77;
constexpr double kCopiedRate = 115;  // bytes a nanosecond
// Of all SMs together: what the L2 sends, a copy to several counted once, which delays a little
// also where it does not bound; what memory sends.
constexpr double kL2Rate = 12700;
constexpr double kL2Delay = 0.1;
constexpr double kMemoryRate = 4500;
// Nanoseconds: from the launch before to the first product; to write a sum of a tile, multiplied by
// nobody meanwhile; and where sums of several CTAs meet, guessed since copies carry them.
constexpr double kStart = 2000;
constexpr double kWriteSum = 0.11;
constexpr double kMeet = 1200;
constexpr double kSendSum = 0.2;

int RowsOf(const TileShape& shape) { return shape.warpgroups * kTileWarpgroupRows; }

double StepNanoseconds(const TileShape& shape, const TileLayout& layout) {
  const double rows = RowsOf(shape);
  return std::max(rows * layout.width * kTensorStepInputs / kProductsPerNanosecond,
                  (rows + layout.tile_tokens) * kTensorStepBytes / kCopiedRate);
}

// Of a step of so many CTAs at once.
double ReadNanoseconds(const TileShape& shape, const TileLinearSplit& split,
                       const TileLayout& layout, int ctas) {
  const double rows = RowsOf(shape);
  return ctas * (rows / split.sharers + layout.tile_tokens) * kTensorStepBytes / kL2Rate;
}

double FinishNanoseconds(const TileShape& shape, const TileLinearSplit& split,
                         const TileLayout& layout) {
  const double sums = RowsOf(shape) * layout.tile_tokens / split.input_parts;
  const double write = sums * kWriteSum;
  return split.input_parts == 1 ? write : write + kMeet + (split.input_parts - 1) * sums * kSendSum;
}

}  // namespace

TileShape::TileShape(const LinearParams& params)
    : tokens(params.tokens),
      rows(params.num_outputs),
      steps(CeilDiv(params.num_inputs, kTensorStepInputs)),
      warpgroups(TileWarpgroups(params.y_dtype == DType::kFloat32)) {}

std::optional<TileLayout> LayOut(const TileShape& shape, const TileLinearSplit& split,
                                 const TileDevice& device) {
  if (!IsKnown(split)) return std::nullopt;
  const int cluster = split.input_parts * split.sharers;
  const int at_once = cluster <= kTileMaxCluster ? device.clusters[cluster] : 0;
  if (at_once == 0 || split.input_parts > shape.steps) return std::nullopt;
  TileLayout layout;
  layout.tile_tokens = 8 * CeilDiv(CeilDiv(shape.tokens, split.token_tiles), 8);
  const bool all_have_tokens = CeilDiv(shape.tokens, layout.tile_tokens) == split.token_tiles;
  if (!all_have_tokens || layout.tile_tokens > kTileMaxWidth) return std::nullopt;
  layout.width = LeastOf(layout.tile_tokens, TileWidths());
  layout.token_groups = split.token_tiles / split.sharers;
  const int rows = RowsOf(shape);
  layout.groups = CeilDiv(shape.rows, rows) * layout.token_groups;
  layout.clusters = std::min(layout.groups, at_once);
  // Partial sums take the ring's place: nothing may be on its way for another tile.
  if (split.input_parts > 1 && layout.groups > layout.clusters) return std::nullopt;
  const int sum_groups = layout.tile_tokens / 8;
  if (split.input_parts > sum_groups) return std::nullopt;
  layout.sum_groups = CeilDiv(sum_groups, split.input_parts);
  const int stage_bytes = (rows + layout.width) * kTensorStepBytes;
  const int room = TensorSharedBytes(1) - kBarrierBytes;
  const int items =
      CeilDiv(layout.groups, layout.clusters) * CeilDiv(shape.steps, split.input_parts);
  layout.stages = std::min({items, kTileMaxStages, room / stage_bytes});
  layout.barriers_offset = layout.stages * stage_bytes;
  if (split.input_parts > 1) {
    const int sums = shape.warpgroups * TileWarpgroupSumBytes(split.input_parts, layout.sum_groups);
    layout.barriers_offset = std::max(layout.barriers_offset, sums);
  }
  layout.bytes = layout.barriers_offset + kBarrierBytes;
  if (layout.bytes > TensorSharedBytes(1)) return std::nullopt;
  return layout;
}

double EstimatedNanoseconds(const TileShape& shape, const TileLinearSplit& split,
                            const TileDevice& device) {
  const std::optional<TileLayout> layout = LayOut(shape, split, device);
  const int ctas = split.input_parts * split.sharers;  // of a cluster
  const int steps = CeilDiv(shape.steps, split.input_parts);
  const double multiply = steps * StepNanoseconds(shape, *layout);
  const double finish = FinishNanoseconds(shape, split, *layout);
  double time = kStart;
  for (int left = layout->groups; left > 0; left -= layout->clusters) {
    const int clusters = std::min(left, layout->clusters);
    const double read = steps * ReadNanoseconds(shape, split, *layout, clusters * ctas);
    time += finish + std::max(multiply, read) + kL2Delay * read;
  }
  const double weight_bytes = 1.0 * shape.rows * shape.steps * kTensorStepBytes;
  return std::max(time, kStart + weight_bytes / kMemoryRate);
}

std::vector<TileLinearSplit> RankedSplits(const TileShape& shape, const TileDevice& device) {
  struct Ranked {
    TileLinearSplit split;
    double time;
  };
  std::vector<Ranked> ranked;
  const auto consider = [&](const TileLinearSplit& split) {
    if (LayOut(shape, split, device)) {
      ranked.push_back({split, EstimatedNanoseconds(shape, split, device)});
    }
  };
  const int fewest = CeilDiv(shape.tokens, kTileMaxWidth);
  const int most = CeilDiv(shape.tokens, std::min(shape.tokens, 64));
  for (int token_tiles = fewest; token_tiles <= most; ++token_tiles) {
    for (int parts = 1; parts <= kTileMaxInputParts; ++parts) {
      for (int sharers = 1; sharers <= kTileMaxSharers; ++sharers) {
        consider({token_tiles, parts, sharers});
      }
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.time < b.time; });
  std::vector<TileLinearSplit> splits;
  for (const Ranked& candidate : ranked) splits.push_back(candidate.split);
  return splits;
}

}  // namespace parallax::kernels::cuda
