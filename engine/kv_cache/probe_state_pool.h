// ProbeStatePool: size and accounts of the workspace for partial probe states.
//
// Attention that splits a row's keys (split-KV decode, later shared prefixes and several
// GPUs) leaves one probe state (m, d1, d2, o1[D], o2[D]), fp32, per (row, query head,
// split) and then merges them. The workspace for these is sized once, from the limits of a
// step, and counted in the memory budget; the backend owns the memory. Acquire and Release
// only keep count, for metrics and to catch a launch that was planned beyond the limits.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_KV_CACHE_PROBE_STATE_POOL_H_
#define PARALLAX_ENGINE_KV_CACHE_PROBE_STATE_POOL_H_

#include <cstdint>

namespace parallax {

struct ProbeStateLimits {
  int32_t max_split_rows = 0;  // rows of a step whose keys may be split
  int32_t num_heads = 0;       // query heads
  int32_t head_dim = 0;
  int32_t max_splits = 0;  // of one row
};

class ProbeStatePool {
 public:
  /// REQUIRES: no limit is negative. A limit of 0 makes a pool of no states.
  explicit ProbeStatePool(const ProbeStateLimits& limits);

  /// Bytes of one state: 3 + 2 D floats.
  static constexpr int64_t StateBytes(int32_t head_dim) {
    return (3 + 2 * int64_t{head_dim}) * static_cast<int64_t>(sizeof(float));
  }

  /// Takes the states of `rows` rows in `splits` parts each, all heads; false, and nothing
  /// taken, if that many are not left.
  bool Acquire(int32_t rows, int32_t splits);
  /// Gives all back: the step that used them is over.
  void ReleaseAll() { used_ = 0; }

  int64_t capacity_bytes() const { return capacity_ * state_bytes_; }
  int64_t used_bytes() const { return used_ * state_bytes_; }
  int64_t peak_bytes() const { return peak_ * state_bytes_; }

 private:
  int64_t num_heads_;
  int64_t state_bytes_;
  int64_t capacity_;  // states
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_KV_CACHE_PROBE_STATE_POOL_H_
