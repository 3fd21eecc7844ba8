#include "kernels/cuda/linear/tensor_split.h"

#include <algorithm>
#include <bit>
#include <iterator>

namespace parallax::kernels::cuda {
namespace {

constexpr int kBarrierBytes = (2 * kTensorMaxStages + 2) * 8;
// With fewer nothing is read while the consumers hold two: they free a stage when they have sent
// the next one's products off. With one, they would wait for a stage that they hold.
constexpr int kMinStages = 3;

template <int... kCounts>
int LeastOf(int tokens, std::integer_sequence<int, kCounts...>) {
  constexpr int kAscending[] = {kCounts...};
  return *std::lower_bound(std::begin(kAscending), std::end(kAscending) - 1, tokens);
}

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

int ClustersAtOnce(const TensorLinearSplit& split, const TensorDevice& device) {
  const bool known = split.cluster >= 1 && split.cluster <= kTensorMaxCluster &&
                     std::has_single_bit(static_cast<unsigned>(split.cluster)) &&
                     (split.ctas_per_sm == 1 || split.ctas_per_sm == 2);
  if (!known) return 0;
  return device
      .clusters[std::countr_zero(static_cast<unsigned>(split.cluster))][split.ctas_per_sm - 1];
}

int SumsBytes(const TensorShape& shape, int cluster) {
  return cluster == 1 ? 0 : kTensorTileRows * ExchangeTokens(shape.tokens) * 4;
}

// An H200, fitted to the times of every split of three models' layers at 16 and 64 tokens. Bytes a
// nanosecond: what its memory reads in practice, and what the L2 gives all SMs.
constexpr double kMemoryRate = 4500;
constexpr double kL2Rate = 6500;
constexpr double kMemoryLatency = 830;  // nanoseconds, of a busy memory
// How far from the model's own best a split may be the fastest: within 3 % of the fastest were
// some at up to 1.33 times. Beyond 64 tokens it was not compared with anything.
constexpr double kWorthTiming = 1.5;
constexpr int kMaxFittedTokens = 64;
// With so many, three stages are left to a CTA that shares its SM with another: too few.
constexpr int kMaxPairedTokens = 48;
// With no more, the best split that reads x for every tile is within 1.1 % of the best that keeps
// it.
constexpr int kMaxRereadTokens = 64;

// `ctas` run side by side, each reading so many bytes of W and x. Memory is shared by SMs: where
// some have two CTAs and others one, those take as long as if all had two.
double ReadNanoseconds(int ctas, double weight_bytes, double x_bytes, int num_sms) {
  const int equal = ctas > num_sms ? 2 * num_sms : ctas;
  return std::max(equal * weight_bytes / kMemoryRate, ctas * (weight_bytes + x_bytes) / kL2Rate);
}

// Of 64 inputs, in one CTA: what the multiplying warps take; or, where the ring is refilled, what
// the latency of its copies allows. The warps hold one or two of its stages.
double StepNanoseconds(const TensorShape& shape, int stages, bool refills) {
  const double products = std::max(140 + 0.4 * shape.tokens, 2.3 * shape.tokens);
  return refills ? std::max(products, kMemoryLatency / (stages - 1.5)) : products;
}

// From a tile's last product to the next tile's first: the store, and the sums' exchange before.
double FinishNanoseconds(const TensorShape& shape, int cluster) {
  return cluster == 1 ? 650 + 24 * shape.tokens : 350 + 29 * shape.tokens;
}

// Whether the split may be the fastest, `full` being the one whose CTAs have an SM each.
bool MayWin(const TensorShape& shape, const TensorLinearSplit& split, const TensorLayout& layout,
            const std::optional<TensorLayout>& full) {
  if (split.keep_x && shape.tokens <= kMaxRereadTokens) return false;
  if (split.ctas_per_sm == 1) return true;
  // What needs no more than half an SM is the same kernel twice.
  if (full && full->bytes == layout.bytes && full->clusters == layout.clusters) return false;
  return shape.tokens <= kMaxPairedTokens;
}

}  // namespace

int PaddedTokens(int tokens) { return LeastOf(tokens, PaddedTokenCounts()); }

// Hopper has 228 KB an SM and takes 1 KB of it for each CTA.
int TensorSharedBytes(int ctas_per_sm) { return (228 / ctas_per_sm - 1) * 1024; }

TensorShape::TensorShape(const LinearParams& params)
    : tokens(PaddedTokens(params.tokens)),
      tiles(CeilDiv(params.num_outputs, kTensorTileRows)),
      steps(CeilDiv(params.num_inputs, kTensorStepInputs)) {}

std::optional<TensorLayout> LayOut(const TensorShape& shape, const TensorLinearSplit& split,
                                   const TensorDevice& device) {
  const int at_once = ClustersAtOnce(split, device);
  if (at_once == 0 || split.cluster > shape.steps) return std::nullopt;
  if (split.ctas_per_sm > TensorCtasPerSm(shape.tokens)) return std::nullopt;
  TensorLayout layout;
  layout.clusters = std::min(shape.tiles, at_once);
  const int tiles = CeilDiv(shape.tiles, layout.clusters);  // of one cluster, at most
  const int steps = CeilDiv(shape.steps, split.cluster);    // of one CTA, at most
  if (split.keep_x && tiles == 1) return std::nullopt;      // nothing to keep it for
  const int sums_bytes = SumsBytes(shape, split.cluster);
  const int slot_bytes = shape.tokens * kTensorStepBytes;
  int room = TensorSharedBytes(split.ctas_per_sm) - sums_bytes - kBarrierBytes;
  if (split.keep_x) room -= steps * slot_bytes;
  const int stage_bytes = kTensorWeightBytes + (split.keep_x ? 0 : slot_bytes);
  const int items = tiles * steps;
  layout.stages = std::min({items, kTensorMaxStages, std::max(room, 0) / stage_bytes});
  if (layout.stages < std::min(items, kMinStages)) return std::nullopt;
  layout.x_offset = layout.stages * kTensorWeightBytes;
  layout.sums_offset = layout.x_offset + (split.keep_x ? steps : layout.stages) * slot_bytes;
  layout.barriers_offset = layout.sums_offset + sums_bytes;
  layout.bytes = layout.barriers_offset + kBarrierBytes;
  return layout;
}

double EstimatedNanoseconds(const TensorShape& shape, const TensorLinearSplit& split,
                            const TensorDevice& device) {
  const std::optional<TensorLayout> layout = LayOut(shape, split, device);
  const int clusters = layout->clusters;
  const int steps = CeilDiv(shape.steps, split.cluster);
  const int full = shape.tiles / clusters;
  const int rest = shape.tiles % clusters;
  const int turns = full + (rest > 0 ? 1 : 0);
  const double multiply =
      steps * StepNanoseconds(shape, layout->stages, turns * steps > layout->stages);
  const double finish = FinishNanoseconds(shape, split.cluster);
  const double weight_bytes = 1.0 * steps * kTensorWeightBytes;
  const double x_bytes = 1.0 * steps * shape.tokens * kTensorStepBytes;
  const auto turn = [&](int count, bool reads_x) {
    const double read =
        ReadNanoseconds(count * split.cluster, weight_bytes, reads_x ? x_bytes : 0, device.num_sms);
    return std::max(read, multiply);
  };
  double time = finish + turn(clusters, true);
  time += (full - 1) * turn(clusters, !split.keep_x);
  if (rest > 0) time += turn(rest, !split.keep_x);
  // Copies go on while a tile is finished, products do not.
  return std::max(time, turns * (multiply + finish));
}

std::vector<TensorLinearSplit> RankedSplits(const TensorShape& shape, const TensorDevice& device) {
  struct Ranked {
    TensorLinearSplit split;
    double time;
  };
  std::vector<Ranked> ranked;
  for (int cluster = 1; cluster <= kTensorMaxCluster; cluster *= 2) {
    for (bool keep_x : {false, true}) {
      const TensorLinearSplit alone{.cluster = cluster, .keep_x = keep_x};
      TensorLinearSplit paired = alone;
      paired.ctas_per_sm = 2;
      const std::optional<TensorLayout> full = LayOut(shape, alone, device);
      for (const TensorLinearSplit& split : {alone, paired}) {
        const std::optional<TensorLayout> layout = LayOut(shape, split, device);
        if (!layout || !MayWin(shape, split, *layout, full)) continue;
        ranked.push_back({split, EstimatedNanoseconds(shape, split, device)});
      }
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.time < b.time; });
  std::vector<TensorLinearSplit> splits;
  for (const Ranked& candidate : ranked) {
    const bool slow = candidate.time > kWorthTiming * ranked.front().time;
    if (slow && shape.tokens <= kMaxFittedTokens) break;
    splits.push_back(candidate.split);
  }
  return splits;
}

}  // namespace parallax::kernels::cuda
