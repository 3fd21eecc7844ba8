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
  return split.warpgroups >= kTileMinWarpgroups && split.warpgroups <= kTileMaxWarpgroups &&
         split.token_tiles >= 1 && split.input_parts >= 1 &&
         split.input_parts <= kTileMaxInputParts && split.sharers >= 1 &&
         split.sharers <= kTileMaxSharers && split.token_tiles % split.sharers == 0;
}

// An H200, before anything was timed: a clock in the middle of what it runs at, and what its L2
// gives all SMs.
constexpr double kClocksPerNanosecond = 1.75;
constexpr double kProductsPerClock = 2048;  // of an SM's tensor cores
constexpr double kSharedBytesPerClock = 128;
constexpr double kL2Rate = 7000;      // bytes a nanosecond
constexpr double kMemoryRate = 4500;  // likewise
constexpr double kStart = 1200;       // nanoseconds, to the first product
constexpr double kEnd = 700;

// Of one CTA: what its tensor cores take, or its shared memory, which the copies write and each
// product reads.
double StepNanoseconds(const TileLinearSplit& split, const TileLayout& layout) {
  const double rows = split.warpgroups * kTileWarpgroupRows;
  const double products = rows * layout.width * kTensorStepInputs / kProductsPerClock;
  const double written = (rows + layout.tile_tokens) * kTensorStepBytes;
  const double instructions = TakesTwoInstructions(split.warpgroups, layout.width) ? 2 : 1;
  const double read = split.warpgroups * double{kTensorStepBytes} *
                      (instructions * kTileWarpgroupRows + layout.width);
  return std::max(products, (written + read) / kSharedBytesPerClock) / kClocksPerNanosecond;
}

// Of all CTAs that run at once, from the L2.
double ReadNanoseconds(const TileLinearSplit& split, const TileLayout& layout, int ctas) {
  const double rows = split.warpgroups * kTileWarpgroupRows;
  const double bytes = (rows / split.sharers + layout.tile_tokens) * kTensorStepBytes;
  return ctas * bytes / kL2Rate;
}

// Sums sent and received, and outputs written.
double FinishNanoseconds(const TileLinearSplit& split, const TileLayout& layout) {
  const double bytes = 4.0 * split.warpgroups * kTileWarpgroupRows * layout.tile_tokens;
  const double stored = bytes / split.input_parts / 40;
  const double exchanged =
      split.input_parts == 1 ? 0 : 600 + bytes * (split.input_parts - 1) / split.input_parts / 60;
  return stored + exchanged;
}

}  // namespace

TileShape::TileShape(const LinearParams& params)
    : tokens(params.tokens),
      rows(params.num_outputs),
      steps(CeilDiv(params.num_inputs, kTensorStepInputs)) {}

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
  const int rows = split.warpgroups * kTileWarpgroupRows;
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
    const int sums = split.warpgroups * TileWarpgroupSumBytes(split.input_parts, layout.sum_groups);
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
  const double multiply = steps * StepNanoseconds(split, *layout);
  const double finish = FinishNanoseconds(split, *layout);
  double time = kStart + kEnd;
  for (int left = layout->groups; left > 0; left -= layout->clusters) {
    const int clusters = std::min(left, layout->clusters);
    time += finish + std::max(multiply, steps * ReadNanoseconds(split, *layout, clusters * ctas));
  }
  const double weight_bytes = 1.0 * shape.rows * shape.steps * kTensorStepBytes;
  return std::max(time, kStart + kEnd + weight_bytes / kMemoryRate);
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
  for (int warpgroups = kTileMinWarpgroups; warpgroups <= kTileMaxWarpgroups; ++warpgroups) {
    for (int token_tiles = fewest; token_tiles <= most; ++token_tiles) {
      for (int parts = 1; parts <= kTileMaxInputParts; ++parts) {
        for (int sharers = 1; sharers <= kTileMaxSharers; ++sharers) {
          consider({warpgroups, token_tiles, parts, sharers});
        }
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
