#include "kernels/kv_cache_write.h"

#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {
namespace {

constexpr char kWrite[] = "KvCacheWrite";
constexpr char kCopy[] = "CopyKvPages";

void CheckSlots(std::span<const int64_t> slot_mapping, int64_t num_pages) {
  for (size_t i = 0; i < slot_mapping.size(); ++i) {
    if (slot_mapping[i] < num_pages * kPageSize) continue;
    ThrowKernelError(kWrite, "slot_mapping",
                     "must name slots below " + std::to_string(num_pages * kPageSize) + ", entry " +
                         std::to_string(i) + " is " + std::to_string(slot_mapping[i]));
  }
}

void CheckCache(const char* op, const KvCacheView& cache, const Stream& stream) {
  if (cache.data == nullptr) ThrowKernelError(op, "cache", "must have data, is null");
  if (cache.device != stream.device()) {
    ThrowKernelError(op, "cache", "must be on the stream's device");
  }
}

void CheckPage(int32_t page, const KvCacheView& cache) {
  if (page >= 0 && page < cache.num_pages) return;
  ThrowKernelError(kCopy, "copies",
                   "must name pages below " + std::to_string(cache.num_pages) + ", one is " +
                       std::to_string(page));
}

}  // namespace

void KvCacheWrite(const ConstTensorView& k, const ConstTensorView& v,
                  std::span<const int64_t> slot_mapping, const KvCacheView& cache,
                  const Stream& stream) {
  const int64_t tokens = static_cast<int64_t>(slot_mapping.size());
  CheckCache(kWrite, cache, stream);
  CheckTensor(kWrite, "k", k, DType::kFloat32, {tokens, cache.num_kv_heads, cache.head_dim},
              stream);
  CheckTensor(kWrite, "v", v, DType::kFloat32, {tokens, cache.num_kv_heads, cache.head_dim},
              stream);
  CheckSlots(slot_mapping, cache.num_pages);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::KvCacheWrite(k, v, slot_mapping, cache, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kWrite);
  }
}

void CopyKvPages(std::span<const PageCopy> copies, std::span<const KvCacheView> layers,
                 const Stream& stream) {
  for (const KvCacheView& layer : layers) {
    CheckCache(kCopy, layer, stream);
    for (const PageCopy& copy : copies) {
      CheckPage(copy.source, layer);
      CheckPage(copy.destination, layer);
    }
  }
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::CopyKvPages(copies, layers, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kCopy);
  }
}

}  // namespace parallax::kernels
