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
  const bool known = std::has_single_bit(static_cast<unsigned>(split.cluster)) &&
                     split.cluster <= kTensorMaxCluster &&
                     (split.ctas_per_sm == 1 || split.ctas_per_sm == 2);
  if (!known) return 0;
  return device
      .clusters[std::countr_zero(static_cast<unsigned>(split.cluster))][split.ctas_per_sm - 1];
}

int SumsBytes(const TensorShape& shape, int cluster) {
  return cluster == 1 ? 0 : kTensorTileRows * ExchangeTokens(shape.tokens) * 4;
}

// Bytes a nanosecond, of an H200: what its memory reads, what the L2 is believed to give all SMs
// and one of them.
constexpr double kMemoryRate = 4670;
constexpr double kL2Rate = 6500;
constexpr double kSmRate = 60;
constexpr double kMemoryLatency = 900;  // nanoseconds, of a busy memory

// `ctas` run side by side, each reading so many bytes of W and x.
double ReadNanoseconds(int ctas, double weight_bytes, double x_bytes, int num_sms) {
  const double sm_rate = kSmRate * std::min(1.0, static_cast<double>(num_sms) / std::max(ctas, 1));
  return std::max({ctas * weight_bytes / kMemoryRate, ctas * (weight_bytes + x_bytes) / kL2Rate,
                   (weight_bytes + x_bytes) / sm_rate});
}

// From a tile's last product to its last store, beyond what a layer takes anyway: the latency of
// sums through distributed shared memory, and the bytes that one CTA sends.
double ExchangeNanoseconds(const TensorShape& shape, int cluster) {
  if (cluster == 1) return 0;
  const double bytes = 4.0 * kTensorTileRows * shape.tokens * (cluster - 1) / cluster;
  return 300.0 * shape.tokens / ExchangeTokens(shape.tokens) + bytes / 40;
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
  const double weight_bytes = 1.0 * steps * kTensorWeightBytes;
  const double x_bytes = 1.0 * steps * shape.tokens * kTensorStepBytes;
  const int full = shape.tiles / clusters;
  const int rest = shape.tiles % clusters;
  const auto read = [&](int count, bool reads_x) {
    return ReadNanoseconds(count * split.cluster, weight_bytes, reads_x ? x_bytes : 0,
                           device.num_sms);
  };
  const double exchange = ExchangeNanoseconds(shape, split.cluster);
  double time = exchange + read(clusters, true);
  time += (full - 1) * read(clusters, !split.keep_x);
  if (rest > 0) time += read(rest, !split.keep_x);
  // While sums are exchanged no stage is freed: a short ring fills up, and the memory waits.
  const int turns = full - 1 + (rest > 0 ? 1 : 0);
  const double ring_bytes = 1.0 * layout->stages * kTensorWeightBytes;
  const double ring_time = ring_bytes * clusters * split.cluster / kMemoryRate;
  return time + turns * std::max(0.0, kMemoryLatency + exchange - ring_time);
}

std::vector<TensorLinearSplit> RankedSplits(const TensorShape& shape, const TensorDevice& device) {
  std::vector<TensorLinearSplit> splits;
  for (int cluster = 1; cluster <= kTensorMaxCluster; cluster *= 2) {
    for (bool keep_x : {false, true}) {
      const TensorLinearSplit alone{.cluster = cluster, .ctas_per_sm = 1, .keep_x = keep_x};
      TensorLinearSplit paired = alone;
      paired.ctas_per_sm = 2;
      const auto one = LayOut(shape, alone, device);
      const auto two = LayOut(shape, paired, device);
      // What needs no more than half an SM is the same kernel twice.
      const bool same = one && two && one->bytes == two->bytes && one->clusters == two->clusters;
      if (one) splits.push_back(alone);
      if (two && !same) splits.push_back(paired);
    }
  }
  std::stable_sort(splits.begin(), splits.end(), [&](const auto& a, const auto& b) {
    return EstimatedNanoseconds(shape, a, device) < EstimatedNanoseconds(shape, b, device);
  });
  return splits;
}

}  // namespace parallax::kernels::cuda
