// The decode kernel's variants, one for each kind of DecodeForm.
//
// Thread safety: stateless.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_LAUNCH_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/parallax_attention/decode_args.h"

namespace parallax::kernels::cuda {

struct DecodeVariant {
  int head_dim = 128;    // 64 or 128
  int tiles = 1;         // of 8 query rows in a row block, 1 or 2
  int cluster_size = 1;  // CTAs that share a segment: 1 or 8; of one tile 2 or 4 too
  int ctas_per_sm = 1;   // that shared memory should leave room for
  int ring_bytes = 0;    // that a CTA keeps on their way to it, if they fit
  bool programmatic_launch = false;
};

// float4s of global memory that one cluster's partial states take, two units at most.
constexpr int64_t DecodePartialsOfCluster(const DecodeVariant& variant) {
  const int rows = variant.tiles * 8;
  return 2 * (variant.cluster_size * rows + rows * variant.head_dim / 2);
}

// Enqueues args.num_clusters clusters of the variant's kernel.
void LaunchDecodeSm90(const DecodeArgs& args, const DecodeVariant& variant, cudaStream_t stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_LAUNCH_H_
