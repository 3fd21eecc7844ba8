// What an owner of device memory promises to streams that do not wait for the default stream.
#include "kernels/cuda/device_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "gtest/gtest.h"
#include "kernels/cuda/execution.h"

namespace parallax::kernels::cuda {
namespace {

// Large enough that clearing it takes longer than starting a copy.
constexpr size_t kBytes = size_t{4} << 30;
constexpr size_t kTailBytes = size_t{1} << 20;

TEST(DeviceBuffer, IsZeroForAStreamOfOnesOwn) {
  const OwnedStream stream(0);
  const PinnedBuffer tail(kTailBytes, "test");
  std::memset(tail.data(), 0xff, kTailBytes);
  {
    const DeviceBuffer used(kBytes, "test");
    CopyToDevice(used.data() + kBytes - kTailBytes, tail.data(), kTailBytes, stream.stream());
    stream.Synchronize();
  }
  const DeviceBuffer fresh(kBytes, "test");  // most likely where the other one was
  CopyToHost(tail.data(), fresh.data() + kBytes - kTailBytes, kTailBytes, stream.stream());
  stream.Synchronize();
  EXPECT_TRUE(std::all_of(tail.data(), tail.data() + kTailBytes,
                          [](std::byte byte) { return byte == std::byte{0}; }));
}

}  // namespace
}  // namespace parallax::kernels::cuda
