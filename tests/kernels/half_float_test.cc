#include "kernels/half_float.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace parallax::kernels {
namespace {

// Every finite 16-bit value survives the way to float and back, and every float between two
// neighbours goes to the nearer one, the even one in the middle.
template <typename ToFloat, typename FromFloat>
void CheckRounding(const ToFloat& to_float, const FromFloat& from_float, uint16_t infinity) {
  for (uint16_t bits = 0; bits < infinity; ++bits) {
    const double low = to_float(bits);
    ASSERT_EQ(from_float(static_cast<float>(low)), bits);
    ASSERT_EQ(from_float(static_cast<float>(-low)), bits | 0x8000);
    const uint16_t next = bits + 1;
    if (next == infinity) break;
    const double high = to_float(next);
    const float middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(from_float(middle), bits % 2 == 0 ? bits : next) << "middle above " << bits;
    ASSERT_EQ(from_float(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(from_float(std::nextafter(middle, HUGE_VALF)), next);
  }
}

TEST(HalfFloatTest, BFloat16RoundsToNearestEven) {
  CheckRounding(BFloat16ToFloat, FloatToBFloat16, 0x7f80);
}

TEST(HalfFloatTest, Float16RoundsToNearestEven) {
  CheckRounding(Float16ToFloat, FloatToFloat16, 0x7c00);
}

TEST(HalfFloatTest, KnownValues) {
  EXPECT_EQ(FloatToFloat16(1.0f), 0x3c00);
  EXPECT_EQ(FloatToFloat16(65504.0f), 0x7bff);
  EXPECT_EQ(FloatToFloat16(0x1p-24f), 0x0001);
  EXPECT_EQ(Float16ToFloat(0x3555), 0.333251953125f);
  EXPECT_EQ(FloatToBFloat16(1.0f), 0x3f80);
  EXPECT_EQ(BFloat16ToFloat(0x4049), 3.140625f);
}

TEST(HalfFloatTest, OverflowIsInfinityAndNaNStaysNaN) {
  EXPECT_EQ(FloatToFloat16(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToFloat16(-1e30f), 0xfc00);
  EXPECT_EQ(FloatToFloat16(HUGE_VALF), 0x7c00);
  EXPECT_EQ(FloatToBFloat16(3.4e38f), 0x7f80);
  EXPECT_TRUE(std::isinf(Float16ToFloat(0x7c00)));
  EXPECT_TRUE(std::isnan(Float16ToFloat(0x7c01)));
  EXPECT_TRUE(std::isnan(Float16ToFloat(FloatToFloat16(std::nanf("")))));
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::nanf("")))));
  // A NaN whose payload lies in the bits that are cut off.
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001)))));
}

}  // namespace
}  // namespace parallax::kernels
