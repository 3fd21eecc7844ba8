// Scalar conversions between float and the two 16-bit formats, as bits, rounding to nearest
// even. Overflow becomes infinity, NaN stays NaN, subnormals are kept.
#ifndef PARALLAX_KERNELS_HALF_FLOAT_H_
#define PARALLAX_KERNELS_HALF_FLOAT_H_

#include <bit>
#include <cstdint>

namespace parallax::kernels {

constexpr float BFloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

constexpr uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);  // quiet
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr float Float16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  constexpr float kSmallestSubnormal = 0x1p-24f;
  if (magnitude < 0x0400) {
    const float value = static_cast<float>(magnitude) * kSmallestSubnormal;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  // Infinity and NaN keep the highest exponent; the others move from bias 15 to bias 127.
  const uint32_t exponent_shift = magnitude >= 0x7c00 ? (255 - 31) << 23 : (127 - 15) << 23;
  return std::bit_cast<float>(sign | ((magnitude << 13) + exponent_shift));
}

constexpr uint16_t FloatToFloat16(float value) {
  constexpr uint32_t kInfinity = 0x7f800000;
  constexpr uint32_t kRoundsToInfinity = 0x477ff000;  // 65520
  constexpr uint32_t kSmallestNormal = 0x38800000;    // 2^-14
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > kInfinity) return sign | 0x7e00;
  if (magnitude >= kRoundsToInfinity) return sign | 0x7c00;
  if (magnitude < kSmallestNormal) {
    // Adding 1/2 puts the last bit of the sum at 2^-24, where a subnormal's last bit is.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000);
  }
  const uint32_t odd = magnitude >> 13 & 1;
  magnitude += 0xfff + odd - ((127 - 15) << 23);
  return sign | static_cast<uint16_t>(magnitude >> 13);
}

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_HALF_FLOAT_H_
