// Parallax attention over a paged KV cache: prefill and decode in one op.
//
// For a query row q with probe r and the keys k_j and values v_j it may see (arXiv 2605.29157):
//   s1_j = (q . k_j) * softmax_scale      s2_j = r . k_j
//   p_j  = exp(s1_j - max s1)             d1 = sum p_j     d2 = sum p_j s2_j
//   o1   = sum p_j v_j                    o2 = sum p_j s2_j v_j
//   out  = (o1/d1) * (1 + d2/d1) - o2/d1
// r = 0 is softmax attention; without r the probe half is not computed at all.
//
// Batch: sequences s = 0..S-1 own the query rows query_start[s] .. query_start[s+1]-1. The
// last of them sits at position context_len[s] - 1, the ones before it at the positions
// before that, so decode is a sequence with one row and prefill one with many. Row i at
// position n sees keys 0..n, or n-W+1..n with a sliding window of W. The rows' own keys and
// values must have been written to the cache first (kernels/kv_cache_write.h): K and V are
// always read as stored.
//
// Query head h reads KV head h / (num_query_heads / num_kv_heads).
//
// Exactness: with SplitPolicy::kFixed a row's result depends on its q, r, position and the
// stored K and V alone, bit for bit: not on the batch, chunking, page numbers or threads.
// Keys fold in at absolute positions, page by page into a probe state for every
// kKeysPerSplit keys (kernels/probe_state.h), and those states merge in order. Slots that
// are not visible may hold anything, NaN included. Accumulation is in fp32, with s2 centred on
// the s2 of the row's top key so far, because out's two terms cancel.
//
// Thread safety: as Stream. Nothing is allocated.
// Errors: KernelError for shapes, dtypes, a page out of range, or a workspace too small.
#ifndef PARALLAX_KERNELS_PARALLAX_ATTENTION_H_
#define PARALLAX_KERNELS_PARALLAX_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kv_cache_view.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

// Keys folded into one probe state before states are merged.
inline constexpr int kKeysPerSplit = 1024;

// Query heads that share one KV head, at most.
inline constexpr int kMaxGroupSize = 32;

enum class SplitPolicy : uint8_t {
  kFixed,     // splits at absolute positions: batch-invariant (the CPU's only policy)
  kBalanced,  // splits that even out the load: results may vary with the batch
};

struct ParallaxAttentionParams {
  ConstTensorView q;  // [tokens, num_query_heads, head_dim] float32
  ConstTensorView r;  // same shape, or undefined: softmax attention
  TensorView out;     // [tokens, num_query_heads, head_dim] float32

  KvCacheView cache;

  std::span<const int32_t> query_start;   // [S + 1], ascending from 0 to tokens
  std::span<const int32_t> context_len;   // [S] keys visible to the sequence's last row
  std::span<const int32_t> block_tables;  // [S, max_blocks] pages in order of position;
                                          // entries wholly behind the window are not read
  int64_t max_blocks = 0;                 // row stride of block_tables

  float softmax_scale = 1.0f;
  int32_t sliding_window = 0;  // 0 = none
  SplitPolicy split_policy = SplitPolicy::kFixed;

  std::span<std::byte> workspace;  // at least ParallaxAttentionWorkspaceBytes()
};

// Bytes of scratch that ParallaxAttention needs on this stream for any batch whose contexts
// are at most max_context_len. Partial probe states for split keys are the larger part.
size_t ParallaxAttentionWorkspaceBytes(int num_query_heads, int num_kv_heads, int head_dim,
                                       int64_t max_context_len, const Stream& stream);

void ParallaxAttention(const ParallaxAttentionParams& params, const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_PARALLAX_ATTENTION_H_
