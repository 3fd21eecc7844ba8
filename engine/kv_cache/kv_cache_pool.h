// Geometry of the KV pool: how many bytes a page takes and how many pages a budget holds.
//
// A page is [layer][k|v][kv_head][64][head_dim] elements; the backend owns the memory.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_KV_CACHE_KV_CACHE_POOL_H_
#define PARALLAX_ENGINE_KV_CACHE_KV_CACHE_POOL_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace parallax {

struct KvCacheGeometry {
  int32_t num_layers = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t element_bytes = 0;  // 2 for bf16 and fp16, 4 for fp32
};

/// Bytes of one page over all layers, K and V.
int64_t PageBytes(const KvCacheGeometry& geometry);

/// Pages that fit in `budget_bytes`. RESOURCE_EXHAUSTED, saying what to raise or lower, if
/// they do not hold one sequence of `max_context_tokens`; INVALID_ARGUMENT if a number is
/// not positive.
absl::StatusOr<int32_t> PagesForBudget(const KvCacheGeometry& geometry, int64_t budget_bytes,
                                       int32_t max_context_tokens);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_KV_CACHE_KV_CACHE_POOL_H_
