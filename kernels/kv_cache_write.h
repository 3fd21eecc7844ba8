// Writing new keys and values into the paged KV cache, and copying pages.
//
// Values are rounded once, to nearest even, to the cache's dtype.
//
// Thread safety: as Stream. Errors: KernelError for shapes, dtypes, slots or pages out of
// range.
#ifndef PARALLAX_KERNELS_KV_CACHE_WRITE_H_
#define PARALLAX_KERNELS_KV_CACHE_WRITE_H_

#include <cstdint>
#include <span>

#include "kernels/kv_cache_view.h"
#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

// Stores row i of k and v, both [tokens, num_kv_heads, head_dim] float32, at
// slot_mapping[i] = page * kPageSize + offset in the page; a negative slot skips the row.
// No slot may occur twice.
void KvCacheWrite(const ConstTensorView& k, const ConstTensorView& v,
                  std::span<const int64_t> slot_mapping, const KvCacheView& cache,
                  const Stream& stream);

struct PageCopy {
  int32_t source = 0;
  int32_t destination = 0;
};

// Copies whole pages in every layer (copy-on-write). Copies run in no order: no page may be
// a destination twice, or source and destination of two copies.
void CopyKvPages(std::span<const PageCopy> copies, std::span<const KvCacheView> layers,
                 const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_KV_CACHE_WRITE_H_
