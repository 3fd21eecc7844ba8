// What the host tells the TensorLinear kernel.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_ARGS_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_ARGS_H_

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace parallax::kernels::cuda {

struct TensorArgs {
  CUtensorMap weight;         // [num_outputs, num_inputs]; with kSiluAndMul halves interleaved
  CUtensorMap x;              // [tokens, num_inputs]
  const __nv_bfloat16* bias;  // [num_outputs], or null
  void* y;                    // [tokens, outputs of the epilogue]
  int64_t y_stride;
  int tokens;
  int num_outputs;
  int full_tiles;     // of every cluster
  int rest_tiles;     // clusters with one more
  int steps;          // of 64 inputs; the last may be partly beyond the matrix
  int cluster_shift;  // log2 of the CTAs in a cluster
  int stages;         // of the ring
  bool keep_x;        // x has a slot for each of the CTA's steps; else one for each stage
  int x_offset;       // into shared memory, as the two below
  int sums_offset;
  int barriers_offset;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_ARGS_H_
