// How TileLinear lays a layer out on a GPU: tiles, clusters, the ring in shared memory. Plain
// arithmetic on the host; the kernel is in tile_kernel.cuh.
//
// A tile is 192 rows of W (with kSiluAndMul half gates, half their ups), 128 where y is float32, by
// one of equal parts of the tokens. Cut once more, its inputs are divided among CTAs of a cluster,
// in steps of 64: one stage of a CTA's ring.
//
// Thread safety: pure functions.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_SPLIT_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_SPLIT_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/tensor_split.h"

namespace parallax::kernels::cuda {

inline constexpr int kTileMaxStages = 8;
inline constexpr int kTileMaxCluster = 8;
inline constexpr int kTileMaxInputParts = 4;
inline constexpr int kTileMaxSharers = 2;
inline constexpr int kTileMaxWarpgroups = 3;
inline constexpr int kTileWarpgroupRows = 64;

// Warpgroups that multiply a tile. Three read less of x a product and finish less often, but what
// adds to the residual has few rows, of which they would leave a GPU too few tiles.
constexpr int TileWarpgroups(bool y_is_float) { return y_is_float ? 2 : kTileMaxWarpgroups; }

// The columns that the kernel's products may have. A tile's tokens are copied as they are; the
// columns beyond them are multiplied for nothing.
using TileWidths = std::integer_sequence<int, 64, 80, 88, 96, 104, 112, 120, 128, 144, 176, 192,
                                         208, 224, 240, 256>;
inline constexpr int kTileMaxWidth = 256;

// Whether a product of so many columns takes two instructions, each of which reads W. One for more
// than 200 is refused where three warpgroups of a kernel start with 128 registers a thread.
constexpr bool TakesTwoInstructions(int warpgroups, int width) {
  return warpgroups == kTileMaxWarpgroups && width > 192;
}

struct TileShape {
  explicit TileShape(const LinearParams& params);

  int tokens;
  int rows;   // of W
  int steps;  // of inputs
  int warpgroups;
};

struct TileDevice {
  // The clusters of 1 to 8 CTAs, one an SM, that run at once; [0] is not used.
  int clusters[kTileMaxCluster + 1] = {};
};

// A CTA's dynamic shared memory is its ring, whose place the partial sums of other CTAs take once
// it is done with, and barriers behind.
struct TileLayout {
  int width = 0;         // columns of a product
  int tile_tokens = 0;   // a multiple of 8; the last tile may have fewer
  int token_groups = 0;  // of token tiles that share weights
  int groups = 0;        // of tiles: what a cluster takes at a time
  int clusters = 0;
  int stages = 0;
  int sum_groups = 0;  // of 8 tokens, that one CTA adds up, at most
  int barriers_offset = 0;
  int bytes = 0;
};

// The part of a warpgroup in the place for partial sums: those of all parts that it adds up, which
// is also where it stages its outputs; and behind, those that it sends to the other parts.
constexpr int kTileMinSumBytes = 8192;
constexpr int TileAddedSumBytes(int input_parts, int sum_groups) {
  const int bytes = 4 * input_parts * sum_groups * 512;
  return bytes > kTileMinSumBytes ? bytes : kTileMinSumBytes;
}
constexpr int TileWarpgroupSumBytes(int input_parts, int sum_groups) {
  return TileAddedSumBytes(input_parts, sum_groups) + 4 * (input_parts - 1) * sum_groups * 512;
}

// Where part `part` begins of `total` things that are cut into equal `parts`; the last one ends
// where part `parts` would begin.
constexpr int FirstOfPart(int total, int parts, int part) { return total * part / parts; }

// 2^32 / divisor, rounded up: the upper half of n times it is n / divisor where n * divisor < 2^32.
// Not for 1, of which it has no room.
constexpr uint32_t ReciprocalOf(int divisor) {
  return static_cast<uint32_t>(((uint64_t{1} << 32) + divisor - 1) / divisor);
}

// Nothing where the split is malformed or does not fit.
std::optional<TileLayout> LayOut(const TileShape& shape, const TileLinearSplit& split,
                                 const TileDevice& device);

// All that fit; the fastest by a rough model first.
std::vector<TileLinearSplit> RankedSplits(const TileShape& shape, const TileDevice& device);

// That model. REQUIRES: the split fits.
double EstimatedNanoseconds(const TileShape& shape, const TileLinearSplit& split,
                            const TileDevice& device);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_SPLIT_H_
