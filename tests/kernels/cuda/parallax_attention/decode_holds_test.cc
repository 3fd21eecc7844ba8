// From which position on decode is held back. Needs no GPU.
#include <gtest/gtest.h>

#include "kernels/check.h"
#include "kernels/cuda/head_norm_rope.h"
#include "kernels/cuda/parallax_decode.h"

namespace parallax::kernels::cuda {
namespace {

TEST(DecodeHoldsTest, FewUnitsStartOnFreeMultiprocessors) {
  DeviceProperties device;
  device.compute_capability = 90;
  device.num_sms = 132;
  const auto holds_from = [&](int batch, int query_heads, int kv_heads, int head_dim,
                              int window = 0) {
    return DecodeHoldsFrom(device, batch, query_heads, {nullptr, 1, kv_heads, head_dim}, window);
  };
  EXPECT_EQ(holds_from(1, 16, 8, 128), 0);
  EXPECT_EQ(holds_from(1, 8, 8, 64), 0);
  EXPECT_EQ(holds_from(1, 16, 8, 128, /*window=*/512), 0);
  EXPECT_EQ(holds_from(15, 4, 1, 128), 0);
  const int32_t from = holds_from(2, 16, 8, 128);
  EXPECT_GT(from, 2048);
  EXPECT_LT(from, 4096);
  EXPECT_EQ(holds_from(4, 16, 8, 128), from);
  EXPECT_EQ(holds_from(4, 16, 8, 128, /*window=*/4096), from);
  EXPECT_EQ(holds_from(4, 16, 8, 128, /*window=*/512), kNeverHolds);
  for (const int batch : {2, 3, 4}) EXPECT_EQ(holds_from(batch, 8, 8, 64), kNeverHolds) << batch;
  for (const int batch : {5, 8, 64}) EXPECT_EQ(holds_from(batch, 16, 8, 128), kNeverHolds) << batch;
  EXPECT_EQ(holds_from(1, 128, 8, 128), kNeverHolds);  // two tiles
  EXPECT_THROW(holds_from(0, 16, 8, 128), KernelError);
  EXPECT_THROW(holds_from(1, 15, 8, 128), KernelError);
  EXPECT_THROW(holds_from(1, 16, 8, 128, /*window=*/-1), KernelError);
  device.compute_capability = 80;
  EXPECT_EQ(holds_from(1, 16, 8, 128), kNeverHolds);
}

}  // namespace
}  // namespace parallax::kernels::cuda
