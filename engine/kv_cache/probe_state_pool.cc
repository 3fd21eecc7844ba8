#include "engine/kv_cache/probe_state_pool.h"

#include <algorithm>

namespace parallax {

ProbeStatePool::ProbeStatePool(const ProbeStateLimits& limits)
    : num_heads_(limits.num_heads),
      state_bytes_(StateBytes(limits.head_dim)),
      capacity_(int64_t{limits.max_split_rows} * limits.num_heads * limits.max_splits) {}

bool ProbeStatePool::Acquire(int32_t rows, int32_t splits) {
  const int64_t states = int64_t{rows} * splits * num_heads_;
  if (states > capacity_ - used_) {
    return false;
  }
  used_ += states;
  peak_ = std::max(peak_, used_);
  return true;
}

}  // namespace parallax
