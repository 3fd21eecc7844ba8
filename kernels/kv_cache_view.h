// One layer's paged KV cache as kernels see it, and the arrangement of its bytes.
//
// Layout: [page][k|v][kv_head][block], where a block holds the 64 tokens of one page for one
// KV head: kPageSize * head_dim contiguous elements. Allocators need only PageBytes(); pages
// are moved and copied whole.
//
// Inside a block the CPU backend stores panels of kPanelWidth columns, the same arrangement
// as PackedWeight (kernels/packed_weight.h), so that both products of attention are the same
// small matrix product as a linear layer, with unit-stride loads and no transposition:
//   k block: [64 / 16][head_dim][16]   element (token t, d) at ((t/16)*head_dim + d)*16 + t%16
//   v block: [head_dim / 16][64][16]   element (token t, d) at ((d/16)*64 + t)*16 + d%16
// Only kernels/ reads or writes inside a block; each backend may arrange it as it likes.
//
// Stored values are x / scale, read back as stored * scale (k_scale, v_scale): 1 for the
// floating-point caches, a seam for narrower ones.
#ifndef PARALLAX_KERNELS_KV_CACHE_VIEW_H_
#define PARALLAX_KERNELS_KV_CACHE_VIEW_H_

#include <cstddef>
#include <cstdint>

#include "kernels/device.h"
#include "kernels/dtype.h"

namespace parallax::kernels {

inline constexpr int kPageSize = 64;     // tokens in a page
inline constexpr int kPanelWidth = 16;   // columns in a panel of packed elements
inline constexpr int kMaxHeadDim = 256;  // head_dim is a multiple of kPanelWidth up to this

struct KvCacheView {
  void* data = nullptr;  // [num_pages][2][num_kv_heads][kPageSize * head_dim]
  DType dtype = DType::kBFloat16;
  int64_t num_pages = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float k_scale = 1.0f;
  float v_scale = 1.0f;
  Device device;

  // Elements of one (page, k or v, head) block.
  int64_t block_elements() const { return int64_t{kPageSize} * head_dim; }
  int64_t page_elements() const { return 2 * num_kv_heads * block_elements(); }
  size_t page_bytes() const { return static_cast<size_t>(page_elements()) * DTypeSize(dtype); }

  // Offsets, in elements, of a block from `data`.
  int64_t k_block_offset(int64_t page, int head) const {
    return page * page_elements() + head * block_elements();
  }
  int64_t v_block_offset(int64_t page, int head) const {
    return page * page_elements() + (num_kv_heads + head) * block_elements();
  }
};

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_KV_CACHE_VIEW_H_
