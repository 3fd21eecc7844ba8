// The decode kernel's variants, one for each kind of DecodeForm.
//
// Thread safety: stateless.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_LAUNCH_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_form.h"

namespace parallax::kernels::cuda {

struct DecodeVariant {
  int head_dim;  // 64 or 128
  int tiles;     // of 8 query rows in a row block, 1 or 2
  DecodeForm form;
  bool programmatic_launch;
};

// float4s of global memory that one cluster's partial states take, two units at most.
constexpr int64_t DecodePartialsOfCluster(int head_dim, int tiles, int cluster_size) {
  const int rows = tiles * 8;
  return 2 * (cluster_size * rows + rows * head_dim / 2);
}

// Enqueues the variant's kernel.
void LaunchDecodeSm90(const DecodeArgs& args, const DecodeVariant& variant, cudaStream_t stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_LAUNCH_H_
