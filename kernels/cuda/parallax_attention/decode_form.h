// How a launch of decode on Hopper is laid out for so many units, which the host knows, and the
// rule by which the device, which knows their lengths, cuts them or not.
//
// A unit is one block of query rows of one (sequence, KV head).
//
// Thread safety: stateless.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_FORM_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_FORM_H_

#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/parallax_attention/decode_cut_rule.h"

namespace parallax::kernels::cuda {

inline constexpr int kMostClusterSize = 8;

// Pages that a CTA could read in the time that the start and the end of a unit take.
inline constexpr int kDecodeUnitCost = 2;

// What a sequence's rows are divided into.
struct SequenceUnits {
  int tiles;  // of 8 rows in a block, 1 or 2
  int row_blocks;
  int count;

  // `rows`: query heads a KV head times query rows.
  SequenceUnits(int rows, int num_kv_heads);
};

struct DecodeForm {
  int cluster_size;  // CTAs that share a segment: 1 or 8; of one tile 2 or 4 too
  int num_clusters;
  int ctas_per_sm;  // that shared memory should leave room for
  int ring_bytes;   // that a CTA keeps on their way to it, if they fit

  int ctas() const { return num_clusters * cluster_size; }
};

// head_dim: 64 or 128.
DecodeForm DecodeFormOf(const DeviceProperties& device, int units, int tiles, int head_dim);

// Of a launch of `form` over so many units.
CutRule CutRuleOf(const DecodeForm& form, int units, int tiles, int head_dim);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_FORM_H_
