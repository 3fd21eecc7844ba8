#include "kernels/kv_cache_write.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/half_float.h"

namespace parallax::kernels {
namespace {

constexpr int kHeads = 2;
constexpr int kHeadDim = 32;
constexpr int kPages = 3;

class KvCacheWriteTest : public testing::Test {
 protected:
  KvCacheView Cache(DType dtype, std::vector<uint8_t>& memory) {
    KvCacheView view;
    view.dtype = dtype;
    view.num_pages = kPages;
    view.num_kv_heads = kHeads;
    view.head_dim = kHeadDim;
    memory.assign(kPages * view.page_bytes(), 0xff);
    view.data = memory.data();
    return view;
  }
  static ConstTensorView Tokens(const std::vector<float>& values) {
    return ConstTensorView(
        values.data(), DType::kFloat32,
        {static_cast<int64_t>(values.size()) / (kHeads * kHeadDim), kHeads, kHeadDim});
  }
  static float Load(const KvCacheView& cache, int64_t element) {
    switch (cache.dtype) {
      case DType::kFloat32:
        return static_cast<const float*>(cache.data)[element];
      case DType::kBFloat16:
        return BFloat16ToFloat(static_cast<const uint16_t*>(cache.data)[element]);
      case DType::kFloat16:
        return Float16ToFloat(static_cast<const uint16_t*>(cache.data)[element]);
    }
    return 0.0f;
  }
  static float Rounded(float value, DType dtype) {
    if (dtype == DType::kBFloat16) return BFloat16ToFloat(FloatToBFloat16(value));
    if (dtype == DType::kFloat16) return Float16ToFloat(FloatToFloat16(value));
    return value;
  }

  // Where kernels/kv_cache_view.h says that an element lies.
  static int64_t KElement(const KvCacheView& cache, int64_t slot, int head, int d) {
    const int64_t t = slot % 64;
    return cache.k_block_offset(slot / 64, head) + ((t / 16) * kHeadDim + d) * 16 + t % 16;
  }
  static int64_t VElement(const KvCacheView& cache, int64_t slot, int head, int d) {
    const int64_t t = slot % 64;
    return cache.v_block_offset(slot / 64, head) + ((d / 16) * 64 + t) * 16 + d % 16;
  }

  std::vector<float> Random(size_t tokens) {
    std::normal_distribution<float> normal;
    std::vector<float> values(tokens * kHeads * kHeadDim);
    for (float& value : values) value = normal(rng_);
    return values;
  }

  std::mt19937 rng_{1};
  ThreadPool pool_{2};
  Stream stream_{pool_};
};

TEST_F(KvCacheWriteTest, StoresRoundedValuesInTheDocumentedPlaces) {
  const std::vector<int64_t> slots = {0, 63, 64, 17, -1, 191, 100};
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    std::vector<uint8_t> memory;
    KvCacheView cache = Cache(dtype, memory);
    cache.k_scale = 2.0f;
    cache.v_scale = 0.5f;
    const std::vector<float> k = Random(slots.size());
    const std::vector<float> v = Random(slots.size());
    KvCacheWrite(Tokens(k), Tokens(v), slots, cache, stream_);
    std::set<int64_t> written;
    for (size_t token = 0; token < slots.size(); ++token) {
      if (slots[token] < 0) continue;
      for (int head = 0; head < kHeads; ++head) {
        for (int d = 0; d < kHeadDim; ++d) {
          const size_t i = (token * kHeads + head) * kHeadDim + d;
          const int64_t k_at = KElement(cache, slots[token], head, d);
          const int64_t v_at = VElement(cache, slots[token], head, d);
          ASSERT_EQ(Load(cache, k_at), Rounded(k[i] / 2.0f, dtype));
          ASSERT_EQ(Load(cache, v_at), Rounded(v[i] * 2.0f, dtype));
          written.insert(k_at);
          written.insert(v_at);
        }
      }
    }
    const size_t size = DTypeSize(dtype);
    for (size_t byte = 0; byte < memory.size(); ++byte) {
      if (written.contains(byte / size)) continue;
      ASSERT_EQ(memory[byte], 0xff) << "byte " << byte;
    }
  }
}

TEST_F(KvCacheWriteTest, CopiesPagesOfEveryLayer) {
  std::vector<uint8_t> memory[2];
  std::vector<KvCacheView> layers;
  for (std::vector<uint8_t>& layer : memory) {
    layers.push_back(Cache(DType::kBFloat16, layer));
    for (uint8_t& byte : layer) byte = static_cast<uint8_t>(rng_());
  }
  const std::vector<uint8_t> before[2] = {memory[0], memory[1]};
  const std::vector<PageCopy> copies = {{.source = 2, .destination = 0}};
  CopyKvPages(copies, layers, stream_);
  const size_t page = layers[0].page_bytes();
  for (int layer = 0; layer < 2; ++layer) {
    for (size_t i = 0; i < memory[layer].size(); ++i) {
      ASSERT_EQ(memory[layer][i], before[layer][i < page ? i + 2 * page : i]);
    }
  }
}

TEST_F(KvCacheWriteTest, RefusesSlotsAndPagesOutsideTheCache) {
  std::vector<uint8_t> memory;
  const KvCacheView cache = Cache(DType::kFloat32, memory);
  const std::vector<float> token = Random(1);
  const std::vector<int64_t> slots = {kPages * 64};
  EXPECT_THROW(KvCacheWrite(Tokens(token), Tokens(token), slots, cache, stream_), KernelError);
  for (const PageCopy& copy : {PageCopy{-1, 0}, PageCopy{0, kPages}}) {
    EXPECT_THROW(CopyKvPages({&copy, 1}, {&cache, 1}, stream_), KernelError);
  }
}

}  // namespace
}  // namespace parallax::kernels
