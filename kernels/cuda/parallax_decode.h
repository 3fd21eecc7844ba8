// Parallax decode on the GPU: 1 to 8 query rows a sequence against its paged K and V.
//
// The op of kernels/parallax_attention.h (formula and positions are told there) for short
// query rows and contexts of any length: one launch whose grid does not depend on them. The
// kernel reads lengths and block tables on the device, deals the batch's pages out evenly over
// the GPU and merges partial probe states itself, so a captured CUDA graph may be replayed
// after their contents, and everything else behind a pointer, have changed.
//
// Slots that no row sees (the tail of the last page, whatever lies behind the window) may hold
// anything, NaN included. State and merges are fp32 up to the one rounding at the store, with
// s2 centred on the s2 of the row's top key. The same inputs give the same bits on one GPU
// model; the split over keys, hence the rounding, may vary with the batch.
//
// Thread safety: as Stream; calls that may run at the same time need workspaces of their own.
// Errors: KernelError for shapes, dtypes, a window, batch or workspace out of range, more pages
// than 32 bits count (of max_blocks a sequence, for all of its KV heads and blocks of up to 16
// rows), and what the launch reports. Values in device memory are trusted: context_len[s] at most
// max_blocks * kPageSize, pages within the cache.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_DECODE_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_DECODE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

inline constexpr int kMaxDecodeBatch = 1024;    // sequences
inline constexpr int kMaxDecodeQueryLen = 8;    // query rows a sequence
inline constexpr int kMaxDecodeGroupSize = 16;  // query heads a KV head

struct ParallaxDecodeParams {
  // bfloat16, on the device, aligned to 16 bytes; tokens may be strided by multiples of 16 bytes,
  // heads of one token are contiguous.
  ConstTensorView q;  // [tokens, num_query_heads, head_dim]
  ConstTensorView r;  // same shape, or undefined: softmax attention
  TensorView out;     // [tokens, num_query_heads, head_dim]

  PagedKvCache cache;

  int batch = 0;          // sequences, 1 .. kMaxDecodeBatch
  int max_query_len = 1;  // of any sequence, 1 .. kMaxDecodeQueryLen

  // Device memory, read by the kernel.
  const int32_t* query_start = nullptr;   // [batch + 1] rows of q, ascending; null: one row each
  const int32_t* context_len = nullptr;   // [batch] keys the sequence's last row sees; 0 leaves
                                          // the sequence's rows of out as they are
  const int32_t* block_tables = nullptr;  // [batch, max_blocks] pages in order of position;
                                          // entries wholly behind the window are not used
  int64_t max_blocks = 0;                 // row stride of block_tables

  float softmax_scale = 1.0f;
  int32_t sliding_window = 0;  // 0 = none

  // ParallaxDecodeWorkspaceBytes(), 256-byte aligned. Its first ParallaxDecodeCounterBytes() are
  // zeroed before its first use; the rest may hold anything.
  std::span<std::byte> workspace;

  // Lets the kernel start while its predecessor on the stream drains (programmatic dependent
  // launch). Until that is done it reads only query_start, context_len, block_tables and pages
  // without a key of the call's own rows (the last query_len keys of a sequence): kernels that
  // precede it, back to the last whose successor was launched plainly, must not write those.
  bool programmatic_launch = false;

  // Runs the kernel beside its predecessor on the stream instead of behind it: on multiprocessors
  // that the other leaves free, and on more as it ends. It completes after it. The predecessor must
  // let the next kernel start only once everything that this one reads is complete, as
  // ParallaxPrefill does, and must not write it; workspaces differ. Other GPUs than Hopper run it
  // behind its predecessor.
  bool beside_preceding = false;
};

// The workspace's counters, at its front: zero before a call and after it.
size_t ParallaxDecodeCounterBytes(const DeviceProperties& device);

// Bytes of scratch for any batch of this model on this GPU; independent of lengths.
size_t ParallaxDecodeWorkspaceBytes(const DeviceProperties& device, int num_query_heads,
                                    int num_kv_heads, int head_dim, int max_query_len);

// The position from which on (HeadNormRopeParams::holds_next_from) the kernel of such a batch, a
// row a sequence, is faster if it finds all multiprocessors free than if it starts as early as it
// can; kNeverHolds if it never is. That is so where few (sequence, KV head) pairs are each read by
// a large cluster, or by one that shares its multiprocessors: they crowd on those free first.
int32_t DecodeHoldsFrom(const DeviceProperties& device, int batch, int num_query_heads,
                        const PagedKvCache& cache, int32_t sliding_window);

// Enqueues the op.
void ParallaxDecode(const ParallaxDecodeParams& params, const DeviceProperties& device,
                    const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_DECODE_H_
