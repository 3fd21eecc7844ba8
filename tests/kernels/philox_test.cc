#include "kernels/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace parallax::kernels {
namespace {

// The known answers published with Random123.
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformDrawsDifferByEveryArgumentAndFillTheInterval) {
  std::set<double> draws;
  double sum = 0.0;
  int count = 0;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
    for (uint32_t choice = 0; choice < 5; ++choice) {
      for (uint32_t position = 0; position < 500; ++position) {
        const double draw = UniformDraw(seed, choice, position);
        ASSERT_GE(draw, 0.0);
        ASSERT_LT(draw, 1.0);
        draws.insert(draw);
        sum += draw;
        ++count;
      }
    }
  }
  EXPECT_EQ(static_cast<int>(draws.size()), count);
  EXPECT_NEAR(sum / count, 0.5, 0.01);
}

}  // namespace
}  // namespace parallax::kernels
