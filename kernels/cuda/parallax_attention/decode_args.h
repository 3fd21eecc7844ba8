// What the decode kernels are launched with: kernels/cuda/parallax_decode.h after its checks.
//
// Thread safety: plain data, passed to kernels by value.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_ARGS_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_ARGS_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/cuda/parallax_attention/decode_cut_rule.h"

namespace parallax::kernels::cuda {

// Divides by a number that the host knows: x by value, where x * value is below 2^32.
struct Divisor {
  uint32_t value = 1;
  uint32_t reciprocal = 0;  // ceil(2^32 / value), 0 for 1

  Divisor() = default;
  explicit Divisor(uint32_t divisor)
      : value(divisor),
        reciprocal(static_cast<uint32_t>(((uint64_t{1} << 32) + divisor - 1) / divisor)) {}

#ifdef __CUDACC__
  __device__ uint32_t Divide(uint32_t x) const { return value == 1 ? x : __umulhi(x, reciprocal); }
#endif
};

struct DecodeArgs {
  const __nv_bfloat16* q = nullptr;  // [tokens, num_query_heads, head_dim]
  const __nv_bfloat16* r = nullptr;  // same shape; null: softmax attention
  __nv_bfloat16* out = nullptr;      // [tokens, num_query_heads, head_dim]
  int64_t q_stride = 0;              // elements from one token to the next
  int64_t r_stride = 0;
  int64_t out_stride = 0;

  const __nv_bfloat16* cache = nullptr;  // [num_pages][k|v][kv_head][64 * head_dim]
  int num_kv_heads = 0;
  Divisor group;  // query heads a KV head

  int batch = 0;
  Divisor row_blocks;                     // a sequence's rows are cut into this many blocks
  const int32_t* query_start = nullptr;   // [batch + 1], or null: one row each
  const int32_t* context_len = nullptr;   // [batch]
  const int32_t* block_tables = nullptr;  // [batch, max_blocks]
  int64_t max_blocks = 0;

  float scale_log2 = 1.0f;     // softmax_scale * log2(e)
  int32_t sliding_window = 0;  // 0 = none

  uint32_t* counters = nullptr;  // [clusters * cluster size], zero between launches
  float4* partials = nullptr;    // probe states of units cut between clusters (decode_merge.cuh)

  int num_clusters = 1;      // what the pages are dealt out to
  int ring_slots = 4;        // of a CTA, one K or V block each
  Divisor units_a_sequence;  // num_kv_heads * row_blocks
  int units_a_cluster = 1;   // if clusters take whole units
  int slice_groups = 0;      // num_clusters / units_a_sequence; 0: not to be used (decode_plan.cuh)
  int unit_cost = 1;         // pages that a unit's start takes the time of
  CutRule cut_rule;

  bool beside_preceding = false;  // only the last CTA waits for the kernel before, at its end
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_DECODE_ARGS_H_
