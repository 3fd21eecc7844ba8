// Parallax prefill on the GPU: causal attention of many query rows over paged K and V.
//
// The op of kernels/parallax_attention.h (formula and positions are told there) for a ragged
// batch of query chunks. K and V, the new tokens' own included, are read through block tables
// only, so the first chunk of a prompt, a later one and one behind a prefix hit are the same
// call. Lengths and block tables are read on the device and the grid depends on bounds alone,
// so a captured CUDA graph may be replayed after the contents behind its pointers have changed.
//
// The same inputs give the same bits. Where few rows see many keys, several blocks share them and
// merge; without split_keys a row's bits depend on its q, r, position and the stored K and V
// alone: not on the batch, the chunking or the page numbers. Slots that no row of a sequence sees
// (the tail of the last page, whatever lies behind the window) may hold anything, NaN included.
// State is fp32 up to the one rounding at the store; p and p*s2 are rounded to bf16 for their
// product with V, after s2 has been centred near its weighted mean.
//
// Tuned for sm_90; a portable kernel serves every other GPU from sm_80 on.
//
// Thread safety: as Stream; calls that may run at the same time need workspaces of their own.
// Errors: KernelError for shapes, dtypes, a window, batch or workspace out of range, and what
// the launch reports. Values in device memory are trusted: query_start ascending and at most
// tokens, context_len[s] at least the sequence's rows and at most max_blocks * kPageSize, pages
// within the cache.
#ifndef PARALLAX_KERNELS_CUDA_PARALLAX_PREFILL_H_
#define PARALLAX_KERNELS_CUDA_PARALLAX_PREFILL_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

struct ParallaxPrefillParams {
  // bfloat16, on the device; tokens may be strided, heads of one token are contiguous. Row
  // strides and data are 16-byte aligned. tokens is a bound: rows from query_start[batch] on are
  // neither read nor written.
  ConstTensorView q;  // [tokens, num_query_heads, head_dim]
  ConstTensorView r;  // same shape, or undefined: softmax attention
  TensorView out;     // [tokens, num_query_heads, head_dim]

  PagedKvCache cache;

  int batch = 0;  // sequences

  // Device memory, read by the kernel.
  const int32_t* query_start = nullptr;   // [batch + 1] rows of q, ascending from 0
  const int32_t* context_len = nullptr;   // [batch] keys the sequence's last row sees
  const int32_t* block_tables = nullptr;  // [batch, max_blocks] pages in order of position;
                                          // entries wholly behind the window are not read
  int64_t max_blocks = 0;                 // row stride of block_tables

  float softmax_scale = 1.0f;  // above 0, finite
  int32_t sliding_window = 0;  // 0 = none
  bool split_keys = true;      // spread few rows behind many keys over an idle GPU

  // ParallaxPrefillWorkspaceBytes(), 256-byte aligned. Its first ParallaxPrefillCounterBytes() are
  // zeroed before its first use; the rest may hold anything.
  std::span<std::byte> workspace;

  // Lets the kernel start while its predecessor on the stream drains (programmatic dependent
  // launch, on Hopper). Until that is done it reads only query_start and context_len: kernels that
  // precede it, back to the last whose successor was launched plainly, must not write those. Its
  // own successor, if launched early, starts when its predecessors are complete.
  bool programmatic_launch = false;
};

// The workspace's counters, at its front: zero before a call and after it.
size_t ParallaxPrefillCounterBytes();

// Bytes of scratch for any batch.
size_t ParallaxPrefillWorkspaceBytes();

// Enqueues the op.
void ParallaxPrefill(const ParallaxPrefillParams& params, const DeviceProperties& device,
                     const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PARALLAX_PREFILL_H_
