#include "engine/models/rope_frequencies.h"

#include <cmath>

#include "gtest/gtest.h"

namespace parallax {
namespace {

TEST(RopeFrequencies, FallGeometricallyFromOne) {
  const auto frequencies = RopeInverseFrequencies({.theta = 10000}, 8);
  ASSERT_EQ(frequencies.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(frequencies[i], std::pow(10.0, -i));
}

TEST(RopeFrequencies, LinearDividesAll) {
  const auto plain = RopeInverseFrequencies({.theta = 5e5}, 64);
  const auto scaled =
      RopeInverseFrequencies({.theta = 5e5, .scaling = RopeScaling::kLinear, .factor = 4}, 64);
  for (int i = 0; i < 32; ++i) EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 4);
}

TEST(RopeFrequencies, Llama3KeepsShortAndStretchesLongWaves) {
  const RopeConfig rope = {.theta = 5e5,
                           .scaling = RopeScaling::kLlama3,
                           .factor = 8,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .original_max_position_embeddings = 8192};
  const auto plain = RopeInverseFrequencies({.theta = 5e5}, 128);
  const auto scaled = RopeInverseFrequencies(rope, 128);
  int kept = 0;
  int stretched = 0;
  int blended = 0;
  for (int i = 0; i < 64; ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8);
      ++stretched;
    } else {
      EXPECT_LT(scaled[i], plain[i]);
      EXPECT_GT(scaled[i], plain[i] / 8);
      ++blended;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(stretched, 0);
  EXPECT_GT(blended, 0);
}

}  // namespace
}  // namespace parallax
