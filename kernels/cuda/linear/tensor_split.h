// How TensorLinear lays a layer out on a GPU: tiles, clusters, the ring in shared memory. Plain
// arithmetic on the host; the kernel is in tensor_linear.cu.
//
// A tile is 128 rows of W (with kSiluAndMul 64 gates and their 64 ups). A cluster of CTAs takes
// tiles in turn, each CTA a part of every tile's inputs, in steps of 64: one stage of its ring.
//
// Thread safety: pure functions.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_SPLIT_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_SPLIT_H_

#include <optional>
#include <utility>
#include <vector>

#include "kernels/cuda/linear.h"

namespace parallax::kernels::cuda {

inline constexpr int kTensorTileRows = 128;
inline constexpr int kTensorStepInputs = 64;  // 128 bytes of bf16, what the swizzle spans
inline constexpr int kTensorStepBytes = 2 * kTensorStepInputs;
inline constexpr int kTensorWeightBytes = kTensorTileRows * kTensorStepBytes;  // of a stage
inline constexpr int kTensorMaxStages = 14;
inline constexpr int kTensorMaxCluster = 8;

// The columns that the kernel's products may have. Decode steps have multiples of 8 tokens from 8 on:
// finer than this, the kernels would be more than they save.
using PaddedTokenCounts = std::integer_sequence<int, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128>;

// The least of them that has place for so many.
int PaddedTokens(int tokens);

// The tokens whose partial sums are exchanged at a time: all, or half of many.
constexpr int ExchangeTokens(int padded_tokens) {
  return padded_tokens > 64 ? padded_tokens / 2 : padded_tokens;
}

// The CTAs whose registers an SM can have: two leave 96 a thread.
constexpr int TensorCtasPerSm(int padded_tokens) { return padded_tokens > 64 ? 1 : 2; }

struct TensorShape {
  explicit TensorShape(const LinearParams& params);

  int tokens;  // padded
  int tiles;
  int steps;  // of inputs
};

struct TensorDevice {
  int num_sms = 0;
  // The clusters of 1, 2, 4 and 8 CTAs that run at once, with 1 and 2 CTAs an SM.
  int clusters[4][2] = {};
};

// The most dynamic shared memory of a CTA that shares its SM with ctas_per_sm - 1 (0 or 1) others.
int TensorSharedBytes(int ctas_per_sm);

// A CTA's dynamic shared memory: the ring's weights from 0, then x, the sums, the barriers.
struct TensorLayout {
  int clusters = 0;
  int stages = 0;
  int x_offset = 0;
  int sums_offset = 0;
  int barriers_offset = 0;
  int bytes = 0;
};

// Nothing where the split is malformed or does not fit.
std::optional<TensorLayout> LayOut(const TensorShape& shape, const TensorLinearSplit& split,
                                   const TensorDevice& device);

// Those that fit, differ and have won, or nearly, where all were timed on an H200; the fastest by a
// rough model of it first.
std::vector<TensorLinearSplit> RankedSplits(const TensorShape& shape, const TensorDevice& device);

// That model. REQUIRES: the split fits.
double EstimatedNanoseconds(const TensorShape& shape, const TensorLinearSplit& split,
                            const TensorDevice& device);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_SPLIT_H_
