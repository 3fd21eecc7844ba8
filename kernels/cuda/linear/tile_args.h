// What the host tells the TileLinear kernel.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_ARGS_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_ARGS_H_

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/linear/tile_split.h"

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
  int tile_tokens;  // a multiple of 8

  // A cluster takes a group of tiles at a time: of one row tile, a token tile for each sharer.
  int token_groups;            // of a row tile
  uint32_t over_token_groups;  // ReciprocalOf(token_groups); where that is 1, unused
  int full_groups;             // of every cluster
  int rest_groups;             // clusters with one more
  int sharers_shift;           // log2 of the CTAs of a cluster that share weights
  int input_parts;             // CTAs of a cluster that share a tile
  // Of each part, and where the last one ends: the first of the steps of 64 inputs, of which the
  // last may be partly beyond the matrix; and of the groups of 8 tokens whose sums it adds up.
  int first_steps[kTileMaxInputParts + 1];
  int first_sums[kTileMaxInputParts + 1];
  int most_sums;  // of one part
  int stages;     // of the ring
  int barriers_offset;
  bool adds;  // to y
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_ARGS_H_
