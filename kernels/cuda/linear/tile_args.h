// What the host tells the TileLinear kernel.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_ARGS_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_ARGS_H_

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace parallax::kernels::cuda {

// What becomes of the products. In float32 they are stored or added, as the arguments say.
enum class TileOutput { kBFloat16, kFloat32, kSiluAndMul };

struct TileArgs {
  CUtensorMap weight;         // [num_outputs, num_inputs]; with kSiluAndMul halves interleaved
  CUtensorMap x;              // [tokens, num_inputs]
  const __nv_bfloat16* bias;  // [num_outputs], or null
  void* y;                    // [tokens, outputs of the epilogue]
  int64_t y_stride;
  int tokens;
  int num_outputs;
  int tile_tokens;   // a multiple of 8
  int token_groups;  // of token tiles that share weights
  int groups;        // of tiles: what a cluster takes at a time
  int steps;         // of 64 inputs; the last may be partly beyond the matrix
  int input_parts;   // CTAs of a cluster that share a tile
  int sharers;       // CTAs of a cluster that share weights
  int sum_groups;    // of 8 tokens, that one CTA adds up, at most
  int stages;        // of the ring
  int barriers_offset;
  bool adds;  // to y
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_ARGS_H_
