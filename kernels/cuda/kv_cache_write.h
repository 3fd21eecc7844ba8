// Copying pages of the GPU's KV cache. New keys and values are written by
// kernels/cuda/head_norm_rope.h.
//
// Thread safety: as Stream. Errors: KernelError for null caches and caches that differ in shape.
#ifndef PARALLAX_KERNELS_CUDA_KV_CACHE_WRITE_H_
#define PARALLAX_KERNELS_CUDA_KV_CACHE_WRITE_H_

#include <span>

#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/kv_cache_write.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// Copies whole pages in every layer (copy-on-write). `copies` lies in device memory; the layers'
// caches are of one shape. Copies run in no order: no page may be a destination twice, or source
// and destination of two copies. A copy with a page out of range is skipped.
void CopyKvPages(std::span<const PageCopy> copies, std::span<const PagedKvCache> layers,
                 const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_KV_CACHE_WRITE_H_
