// One layer's paged KV cache on the GPU, and the arrangement of its bytes.
//
// Layout: [page][k|v][kv_head][block], bf16, as everywhere (kernels/kv_cache_view.h). A block
// holds the 64 tokens of one page for one KV head, kPageSize * head_dim contiguous elements
// (16 KB at head_dim 128): one bulk copy.
//
// Inside a block K and V alike are stored already swizzled for the matrix unit, so that a
// plain bulk copy leaves in shared memory what wgmma's 128-byte swizzle mode and a
// conflict-free ldmatrix expect:
//   block: [head_dim / 64][64 tokens][64 dims] with, in every 128-byte row of token t, the
//   16-byte chunk c (dims 8c .. 8c+7) stored at chunk c ^ (t % 8).
// So element (t, d) is at
//   (d / 64) * 4096 + t * 64 + ((((d % 64) / 8) ^ (t % 8)) * 8) + d % 8.
// head_dim is 64 or 128. KvBlockOffset() below is the only place that spells this out for
// scalar code; whatever reads or writes tiles must agree with it, and a test sees that it does.
//
// Thread safety: a value.
#ifndef PARALLAX_KERNELS_CUDA_PAGED_KV_CACHE_H_
#define PARALLAX_KERNELS_CUDA_PAGED_KV_CACHE_H_

#include <cstdint>

#include <cuda_bf16.h>

#include "kernels/kv_cache_view.h"

namespace parallax::kernels::cuda {

// Offset, in elements from the start of its block, of dimension d of the page's token t.
__host__ __device__ constexpr int KvBlockOffset(int t, int d) {
  return (d / 64) * (kPageSize * 64) + t * 64 + ((((d % 64) / 8) ^ (t % 8)) * 8) + d % 8;
}

struct PagedKvCache {
  __nv_bfloat16* data = nullptr;  // [num_pages][2][num_kv_heads][kPageSize * head_dim]
  int64_t num_pages = 0;
  int num_kv_heads = 0;
  int head_dim = 0;  // 64 or 128

  __host__ __device__ int64_t block_elements() const { return int64_t{kPageSize} * head_dim; }
  __host__ __device__ int64_t page_elements() const { return 2 * num_kv_heads * block_elements(); }

  // Offsets, in elements, of a block from `data`.
  __host__ __device__ int64_t k_block_offset(int64_t page, int kv_head) const {
    return page * page_elements() + kv_head * block_elements();
  }
  __host__ __device__ int64_t v_block_offset(int64_t page, int kv_head) const {
    return page * page_elements() + (num_kv_heads + kv_head) * block_elements();
  }
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_PAGED_KV_CACHE_H_
