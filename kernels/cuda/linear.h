// Linear layer on the GPU for few tokens:  y = x W^T (+ bias), with what follows it fused.
//
// Few tokens: bound by reading W once. SkinnyLinear (1..16 tokens) spreads W's rows over all
// SMs, streams them through shared memory with bulk copies and multiplies on the tensor cores,
// the tokens padded to 8 or 16 columns. With programmatic launch the copies start before the
// preceding kernel on the stream has finished: W depends on nothing.
//
// Exactness: products of bf16 accumulate in fp32; the order of the sum depends on K and the
// instruction shape alone, so a token's result is bit for bit the same for any number of other
// tokens and any number of SMs, and one launch repeats another. y is rounded once.
//
// Thread safety: as Stream. Nothing is allocated, nothing waits; capturable in a CUDA graph.
// Errors: KernelError for shapes, alignment, and GPUs other than Hopper.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_H_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// What happens to x W^T + bias, z for short, in fp32.
enum class LinearEpilogue : uint8_t {
  kStore,       // y = z                            y: bf16 or float32
  kAccumulate,  // y += z (a residual stream)       y: float32
  kSiluAndMul,  // y[:, j] = silu(z[:, j]) * z[:, j + N/2] (fused gate and up)   y: bf16, N/2 wide
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

  // Let this kernel start while the one before it on the stream still runs (programmatic
  // dependent launch). It reads x, and touches y, only once that one has completed. The weight
  // and bias must not be written by it.
  bool programmatic_launch = false;
};

inline constexpr int kMaxSkinnyTokens = 16;

// REQUIRES: a Hopper GPU; 1..16 tokens; N a multiple of 8 (16 for kSiluAndMul), K of 64; x rows and
// weight 16-byte aligned.
void SkinnyLinear(const LinearParams& params, const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_H_
