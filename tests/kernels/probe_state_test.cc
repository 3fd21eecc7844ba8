// The probe state is a commutative monoid up to rounding, with an exact identity.
#include "kernels/probe_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace parallax::kernels {
namespace {

constexpr int kHeadDim = 16;

class State {
 public:
  State() : o_(2 * kHeadDim) { ClearProbeState(ref()); }
  ProbeStateRef ref() { return {&scalars_, o_.data(), o_.data() + kHeadDim, kHeadDim}; }

  State Merge(State other) const {
    State result = *this;
    MergeProbeState(result.ref(), other.ref());
    return result;
  }

  std::vector<float> Out() {
    std::vector<float> out(kHeadDim);
    FinishProbeState(ref(), /*v_scale=*/1.0f, out.data());
    return out;
  }

 private:
  ProbeScalars scalars_;
  std::vector<float> o_;
};

// A state over some keys, written down from the definition with the given centre.
State OfKeys(const std::vector<float>& s1, const std::vector<float>& s2, float centre,
             std::mt19937& rng) {
  std::normal_distribution<float> normal;
  State state;
  ProbeStateRef ref = state.ref();
  for (float score : s1) ref.scalars->max = std::max(ref.scalars->max, score);
  ref.scalars->centre = centre;
  for (size_t j = 0; j < s1.size(); ++j) {
    const float p = std::exp(s1[j] - ref.scalars->max);
    ref.scalars->d1 += p;
    ref.scalars->d2 += p * (s2[j] - centre);
    for (int d = 0; d < kHeadDim; ++d) {
      const float v = normal(rng);
      ref.o1[d] += p * v;
      ref.o2[d] += p * (s2[j] - centre) * v;
    }
  }
  return state;
}

State RandomState(std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> s1(5);
  std::vector<float> s2(5);
  for (float& x : s1) x = normal(rng);
  for (float& x : s2) x = normal(rng);
  return OfKeys(s1, s2, normal(rng), rng);
}

void ExpectNear(State a, State b) {
  const std::vector<float> out_a = a.Out();
  const std::vector<float> out_b = b.Out();
  for (int d = 0; d < kHeadDim; ++d) {
    EXPECT_NEAR(out_a[d], out_b[d], 1e-4 * (1.0 + std::abs(out_b[d])));
  }
}

TEST(ProbeStateTest, MergeIsAssociative) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    const State a = RandomState(rng);
    const State b = RandomState(rng);
    const State c = RandomState(rng);
    ExpectNear(a.Merge(b).Merge(c), a.Merge(b.Merge(c)));
  }
}

TEST(ProbeStateTest, MergeIsCommutative) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    const State a = RandomState(rng);
    const State b = RandomState(rng);
    ExpectNear(a.Merge(b), b.Merge(a));
  }
}

TEST(ProbeStateTest, EmptyStateIsAnExactIdentity) {
  std::mt19937 rng(1);
  State a = RandomState(rng);
  EXPECT_EQ(a.Merge(State()).Out(), a.Out());
  EXPECT_EQ(State().Merge(a).Out(), a.Out());
  EXPECT_EQ(State().Merge(State()).Out(), std::vector<float>(kHeadDim, 0.0f));
}

// out = sum_j w_j v_j with w_j = P_j (1 + E[s2] - s2_j), for two keys by hand.
TEST(ProbeStateTest, FinishesToTheFormula) {
  for (float centre : {0.0f, 2.0f, -7.0f}) {
    State state;
    ProbeStateRef ref = state.ref();
    const float p = std::exp(-1.0f);  // the second key's, relative to the first's
    const float s2[2] = {2.0f, -3.0f};
    *ref.scalars = {/*max=*/4.0f, centre, 1.0f + p, (s2[0] - centre) + p * (s2[1] - centre)};
    ref.o1[0] = 10.0f + p * 20.0f;
    ref.o2[0] = (s2[0] - centre) * 10.0f + p * (s2[1] - centre) * 20.0f;
    const double first = 1.0 / (1.0 + p);
    const double mean = first * s2[0] + (1.0 - first) * s2[1];
    const double expected =
        first * (1.0 + mean - s2[0]) * 10.0 + (1.0 - first) * (1.0 + mean - s2[1]) * 20.0;
    EXPECT_NEAR(state.Out()[0], expected, 1e-4);
  }
}

TEST(ProbeStateTest, ExtremeMaximaDoNotOverflow) {
  std::mt19937 rng(2);
  State low = OfKeys({-1e4f}, {1.0f}, 0.0f, rng);
  State high = OfKeys({1e4f}, {2.0f}, 0.0f, rng);
  EXPECT_EQ(low.Merge(high).Out(), high.Out());
  EXPECT_EQ(high.Merge(low).Out(), high.Out());
}

}  // namespace
}  // namespace parallax::kernels
