// Philox4x32-10, the counter-based random number generator of Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011): ten rounds of a keyed bijection of 128-bit counters.
//
// A sampled token's randomness is a pure function of (seed, choice_index, position), so it
// does not depend on what else is in the batch or on the order of calls.
//
// Thread safety: pure functions.
#ifndef PARALLAX_KERNELS_PHILOX_H_
#define PARALLAX_KERNELS_PHILOX_H_

#include <array>
#include <cstdint>

namespace parallax::kernels {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

constexpr PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  constexpr int kRounds = 10;
  constexpr uint64_t kMultiplier0 = 0xD2511F53;
  constexpr uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9;  // golden ratio
  constexpr uint32_t kWeyl1 = 0xBB67AE85;  // sqrt(3) - 1
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

// Uniform in [0, 1) with 53 bits: key = seed, counter = (position, choice_index, 0, 0).
constexpr double UniformDraw(uint64_t seed, uint32_t choice_index, uint32_t position) {
  const PhiloxCounter bits =
      Philox4x32({position, choice_index, 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t high = bits[0] >> 5;  // 27 bits
  const uint64_t low = bits[1] >> 6;   // 26 bits
  return static_cast<double>(high << 26 | low) * 0x1p-53;
}

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_PHILOX_H_
