// What a prefill kernel is launched with.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ARGS_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ARGS_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/paged_kv_cache.h"

namespace parallax::kernels::cuda {

// Deals tiles to the blocks of a launch. Zero before a launch and after it.
struct PrefillCounters {
  uint32_t next_tile;    // tiles taken beyond every block's first
  uint32_t blocks_done;  // blocks that found no more
};

struct PrefillArgs {
  const __nv_bfloat16* q;  // [tokens][num_query_heads][head_dim], rows q_stride elements apart
  const __nv_bfloat16* r;  // the same
  __nv_bfloat16* out;      // [tokens][num_query_heads][head_dim]
  int64_t q_stride;
  int64_t r_stride;
  int64_t out_stride;

  PagedKvCache cache;
  const int32_t* query_start;   // [batch + 1]
  const int32_t* context_len;   // [batch]
  const int32_t* block_tables;  // [batch][max_blocks]
  int64_t max_blocks;
  int batch;

  int group_size;    // query heads a KV head
  float scale_log2;  // softmax_scale * log2(e)
  int window;        // keys a row sees at most
  PrefillCounters* counters;
};

// Launches for at most `tokens_bound` query rows, on `num_sms` multiprocessors.
void LaunchPrefillWgmma(const PrefillArgs& args, int64_t tokens_bound, int num_sms,
                        cudaStream_t stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_ATTENTION_PREFILL_ARGS_H_
