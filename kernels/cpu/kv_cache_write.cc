#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel_rows.h"
#include "kernels/half_float.h"

namespace parallax::kernels::cpu {
namespace {

// How a float becomes an element of the cache.
struct StoreFloat32 {
  using Element = float;
  Element operator()(float value) const { return value; }
};
struct StoreBFloat16 {
  using Element = uint16_t;
  Element operator()(float value) const { return FloatToBFloat16(value); }
};
struct StoreFloat16 {
  using Element = uint16_t;
  Element operator()(float value) const { return FloatToFloat16(value); }
};

// The arrangement inside blocks is documented in kernels/kv_cache_view.h.
template <typename Store>
void WriteToken(const float* k, const float* v, int64_t slot, int head, const KvCacheView& cache) {
  const Store store;
  using Element = typename Store::Element;
  Element* const data = static_cast<Element*>(cache.data);
  const int64_t page = slot / kPageSize;
  const int64_t token = slot % kPageSize;
  const float k_inverse = 1.0f / cache.k_scale;
  const float v_inverse = 1.0f / cache.v_scale;
  Element* const k_to = data + cache.k_block_offset(page, head) +
                        token / kPanelWidth * cache.head_dim * kPanelWidth + token % kPanelWidth;
  for (int d = 0; d < cache.head_dim; ++d) k_to[d * kPanelWidth] = store(k[d] * k_inverse);
  Element* const v_to = data + cache.v_block_offset(page, head) + token * kPanelWidth;
  for (int d = 0; d < cache.head_dim; ++d) {
    v_to[d / kPanelWidth * (kPageSize * kPanelWidth) + d % kPanelWidth] = store(v[d] * v_inverse);
  }
}

template <typename Store>
void WriteAll(const ConstTensorView& k, const ConstTensorView& v,
              std::span<const int64_t> slot_mapping, const KvCacheView& cache, ThreadPool& pool) {
  const int64_t tokens = static_cast<int64_t>(slot_mapping.size());
  // Head by head: neighbouring tokens share cache lines of the k block.
  ParallelRows(pool, cache.num_kv_heads * tokens, 2 * cache.head_dim,
               [&](int64_t begin, int64_t end, int /*thread*/) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t head = i / tokens;
                   const int64_t token = i % tokens;
                   if (slot_mapping[token] < 0) continue;
                   WriteToken<Store>(k.as<float>() + token * k.strides[0] + head * k.strides[1],
                                     v.as<float>() + token * v.strides[0] + head * v.strides[1],
                                     slot_mapping[token], static_cast<int>(head), cache);
                 }
               });
}

}  // namespace

void KvCacheWrite(const ConstTensorView& k, const ConstTensorView& v,
                  std::span<const int64_t> slot_mapping, const KvCacheView& cache,
                  ThreadPool& pool) {
  switch (cache.dtype) {
    case DType::kFloat32:
      return WriteAll<StoreFloat32>(k, v, slot_mapping, cache, pool);
    case DType::kBFloat16:
      return WriteAll<StoreBFloat16>(k, v, slot_mapping, cache, pool);
    case DType::kFloat16:
      return WriteAll<StoreFloat16>(k, v, slot_mapping, cache, pool);
  }
}

void CopyKvPages(std::span<const PageCopy> copies, std::span<const KvCacheView> layers,
                 ThreadPool& pool) {
  const int64_t num_copies = static_cast<int64_t>(copies.size());
  const int64_t num_layers = static_cast<int64_t>(layers.size());
  pool.ParallelFor(num_copies * num_layers, [&](int64_t task, int /*thread*/) {
    const KvCacheView& layer = layers[task / num_copies];
    const PageCopy& copy = copies[task % num_copies];
    std::byte* const data = static_cast<std::byte*>(layer.data);
    const size_t bytes = layer.page_bytes();
    std::memcpy(data + copy.destination * bytes, data + copy.source * bytes, bytes);
  });
}

}  // namespace parallax::kernels::cpu
