// Linear layer on the GPU:  y = x W^T (+ bias), with what follows it fused.
//
// Few tokens: bound by reading W once. SkinnyLinear (1..16 tokens) spreads W's rows over all
// SMs, streams them through shared memory with bulk copies and multiplies on the tensor cores,
// the tokens padded to 8 or 16 columns. TensorLinear (1..128) gives a cluster of CTAs tiles of 128
// rows, each CTA a part of the inputs, so that an SM reads a part of x; W and x come as tensor
// copies and are multiplied by the warpgroup instructions. With programmatic launch the copies of W
// start before the preceding kernel on the stream has finished: W depends on nothing.
//
// More tokens: bound by products. TileLinear (1..1024, meant for 129 and more) gives a CTA a tile
// of 192 rows, 128 where y is float32, by up to 256 tokens; the CTAs of a cluster share a tile's
// inputs, or W's copies, or both.
//
// Exactness: products of bf16 accumulate in fp32. In SkinnyLinear the order of the sum depends on K
// and the instruction shape alone, so a token's result is bit for bit the same for any number of
// other tokens and any number of SMs (with a deferred norm, whose squares are summed by tiles: for
// GPUs of equally many SMs). In TensorLinear it depends on K, the split's cluster and, as far as
// the instruction makes it, on tokens rounded up; so it does in TileLinear, with the parts of the
// inputs. One launch repeats another in all of them. y is rounded once.
//
// Thread safety: as Stream. Nothing is allocated, nothing waits; capturable in a CUDA graph.
// Errors: KernelError for shapes, alignment, and GPUs other than Hopper.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_H_

#include <cuda_bf16.h>

#include <compare>
#include <cstdint>
#include <vector>

#include "kernels/dtype.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// What happens to x W^T + bias, z for short, in fp32.
enum class LinearEpilogue : uint8_t {
  kStore,       // y = z                            y: bf16 or float32
  kAccumulate,  // y += z (a residual stream)       y: float32
  kSiluAndMul,  // y[:, j] = silu(z[:, j]) * z[:, j + N/2] (fused gate and up)   y: bf16, N/2 wide
};

// RMSNorm without a kernel of its own. What follows the norm is linear, so its row factor,
// 1 / sqrt(mean of squares + epsilon), may be multiplied in after the product: the layer before
// writes y times the norm's weight, and the sum of y's squares in parts; the layer after reads
// both.

// x is such a product: z = factor (x W^T) + bias, the factor from the squares of the row of y.
struct DeferredNorm {
  const float* squares = nullptr;  // [tokens, parts], from NextNorm; null: x is as it is
  int parts = 0;                   // SkinnySquareParts of the layer that wrote them
  float epsilon = 0.0f;
};

// With kAccumulate: a norm of y that the layer after is to defer.
struct NextNorm {
  const float* weight = nullptr;    // [N]; null: no norm follows
  __nv_bfloat16* scaled = nullptr;  // [tokens, N], contiguous: y * weight, rounded
  float* squares = nullptr;         // [tokens, parts]: sums of y's squares
};

struct LinearParams {
  const __nv_bfloat16* x = nullptr;       // [tokens, num_inputs], rows x_stride elements apart
  int64_t x_stride = 0;                   // 0 = num_inputs
  const __nv_bfloat16* weight = nullptr;  // [num_outputs, num_inputs] row-major, contiguous
  const __nv_bfloat16* bias = nullptr;    // [num_outputs], or null
  void* y = nullptr;                      // [tokens, outputs of the epilogue]
  int64_t y_stride = 0;                   // 0 = outputs of the epilogue
  DType y_dtype = DType::kBFloat16;
  LinearEpilogue epilogue = LinearEpilogue::kStore;
  int tokens = 0;
  int num_outputs = 0;  // N
  int num_inputs = 0;   // K
  DeferredNorm norm;    // SkinnyLinear alone
  NextNorm next_norm;   // likewise

  // Let this kernel start while the one before it on the stream still runs (programmatic
  // dependent launch). It reads x, and touches y, only once that one has completed. The weight,
  // the bias and the next norm's weight must not be written by it.
  bool programmatic_launch = false;
};

inline constexpr int kMaxSkinnyTokens = 16;

inline constexpr int kMaxSquareParts = 128;

// Parts of NextNorm::squares for a layer of `num_outputs` outputs; 0 = too many, no norm can be
// deferred behind it.
int SkinnySquareParts(int num_outputs, const Device& device);

// REQUIRES: a Hopper GPU; 1..16 tokens; N a multiple of 8 (16 for kSiluAndMul), K of 64; x rows and
// weight 16-byte aligned.
void SkinnyLinear(const LinearParams& params, const Stream& stream);

inline constexpr int kMaxTensorTokens = 128;

// How TensorLinear divides a layer among the SMs.
struct TensorLinearSplit {
  int cluster = 1;  // CTAs that share a tile of 128 outputs, each a part of its inputs: 1, 2, 4, 8
  int ctas_per_sm = 1;  // 2 leaves each CTA half of an SM's shared memory
  bool keep_x = false;  // where a CTA takes several tiles: its part of x stays in shared memory

  auto operator<=>(const TensorLinearSplit&) const = default;
};

// Of layers with 1..128 tokens, N a multiple of 8 (16 for kSiluAndMul) and K of 8: the splits that
// fit GPU `device` and may be the fastest, the one expected to be first. None for other layers and
// GPUs. The first call of this or the two below for a GPU, which must be the current one, loads
// TensorLinear's kernels.
std::vector<TensorLinearSplit> TensorLinearSplits(const LinearParams& params, int device);

// Whether `split` is one that TensorLinear can run the layer with.
bool TensorLinearTakes(const LinearParams& params, const TensorLinearSplit& split, int device);

// REQUIRES: TensorLinearTakes; x, weight, bias and y 16-byte aligned; strides multiples of 8.
void TensorLinear(const LinearParams& params, const TensorLinearSplit& split, const Stream& stream);

inline constexpr int kMaxTileTokens = 1024;

// How TileLinear divides a layer among the SMs.
struct TileLinearSplit {
  int token_tiles = 1;  // equal parts of the tokens, of up to 256
  int input_parts = 1;  // CTAs of a cluster that share a tile, each a part of its inputs: 1..4
  int sharers = 1;      // CTAs of a cluster that share copies of W, with a token tile each: 1, 2

  auto operator<=>(const TileLinearSplit&) const = default;
};

// Of layers with 1..1024 tokens, N a multiple of 8 (16 for kSiluAndMul) and K of 8: the splits that
// fit GPU `device`, the one expected to be fastest first. None for other layers and GPUs. The first
// call of this or the two below for a GPU, which must be the current one, loads TileLinear's
// kernels.
std::vector<TileLinearSplit> TileLinearSplits(const LinearParams& params, int device);

// Whether `split` is one that TileLinear can run the layer with.
bool TileLinearTakes(const LinearParams& params, const TileLinearSplit& split, int device);

// REQUIRES: TileLinearTakes; x, weight, bias and y 16-byte aligned; strides multiples of 8.
void TileLinear(const LinearParams& params, const TileLinearSplit& split, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_H_
