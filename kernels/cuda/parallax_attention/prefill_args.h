// What a prefill kernel is launched with, and its scratch memory.
//
// Thread safety: plain data, passed to kernels by value.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ARGS_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ARGS_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/paged_kv_cache.h"

namespace parallax::kernels::cuda {

inline constexpr int kNoWindow = 1 << 30;  // beyond every context, and far from overflow

// A warp's 16 packed rows over a part of their keys (prefill_merge.cuh), in scratch memory.
inline constexpr int kPartialWarps = 132 * 8;          // an H200 with all its consumer warps
inline constexpr int kPartialFloatsPerLane = 8 + 128;  // at head_dim 128
inline constexpr int kMostParts = 16;                  // that the keys of a tile are cut into

// Zero before a launch and after it.
struct PrefillCounters {
  uint32_t next_tile;             // tiles taken beyond every block's first
  uint32_t blocks_done;           // blocks that found no more
  uint32_t pairs[kPartialWarps];  // of parts of a warp's rows (prefill_merge.cuh)
};

struct PrefillWorkspace {
  PrefillCounters counters;  // first: ParallaxPrefillCounterBytes()
  alignas(256) float4 partials[kPartialWarps][kPartialFloatsPerLane / 4 * 32];
};

struct PrefillArgs {
  const __nv_bfloat16* q;  // [tokens][num_query_heads][head_dim], rows q_stride elements apart
  const __nv_bfloat16* r;  // the same; null: softmax attention
  __nv_bfloat16* out;      // [tokens][num_query_heads][head_dim]
  int64_t q_stride;
  int64_t r_stride;
  int64_t out_stride;

  PagedKvCache cache;
  const int32_t* query_start;   // [batch + 1], or null: one row each
  const int32_t* context_len;   // [batch]
  const int32_t* block_tables;  // [batch][max_blocks]
  int64_t max_blocks;
  int batch;

  int group_size;    // query heads a KV head
  float scale_log2;  // softmax_scale * log2(e)
  int window;        // keys a row sees at most
  bool split_keys;   // few tiles may be cut over their keys

  // Set by the launches: tiles times parts that partials have room for and blocks exist for.
  int part_slots;
  PrefillWorkspace* workspace;
};

// Both launch for at most `tokens_bound` query rows. The first is for Hopper, on `num_sms`
// multiprocessors and, if `programmatic`, early; the second for sm_80 and later.
void LaunchPrefillWgmma(const PrefillArgs& args, int64_t tokens_bound, int num_sms,
                        bool programmatic, cudaStream_t stream);
void LaunchPortableAttention(const PrefillArgs& args, int64_t tokens_bound, cudaStream_t stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ARGS_H_
