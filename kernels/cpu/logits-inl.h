// Passes over a row of logits, shared by sampling and log-probabilities.
#if defined(PARALLAX_KERNELS_CPU_LOGITS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PARALLAX_KERNELS_CPU_LOGITS_INL_H_
#undef PARALLAX_KERNELS_CPU_LOGITS_INL_H_
#else
#define PARALLAX_KERNELS_CPU_LOGITS_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "kernels/cpu/simd-inl.h"
#include "kernels/logprobs.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

// fp32 sums run over at most this many logits before they are added up in double.
inline constexpr int64_t kSumBlock = 1024;

// Calls body(pointer) for groups of 16 logits, the last one filled up with -inf.
template <typename Body>
inline void ForEachPaddedGroup(const float* logits, int64_t size, const Body& body) {
  ForEachGroup(size, [&](int64_t i, int count) HWY_ATTR {
    if (HWY_LIKELY(count == kPanelWidth)) return body(logits + i);
    float padded[kPanelWidth];
    std::fill(padded, padded + kPanelWidth, -std::numeric_limits<float>::infinity());
    std::copy(logits + i, logits + i + count, padded);
    body(padded);
  });
}

// The largest logit; +inf where one is NaN or +inf, -inf where all are -inf.
inline float MaxLogit(const float* logits, int64_t size) {
  const FloatTag tag;
  const FloatVector infinity = hn::Set(tag, std::numeric_limits<float>::infinity());
  Group max = BroadcastGroup(-std::numeric_limits<float>::infinity());
  const auto raise = [&](const float* from) HWY_ATTR {
    for (int v = 0; v < kVectors; ++v) {
      const FloatVector logit = hn::LoadU(tag, from + v * kLanes);
      max.v[v] = hn::Max(max.v[v], hn::IfThenElse(hn::IsNaN(logit), infinity, logit));
    }
  };
  ForEachPaddedGroup(logits, size, raise);
  return MaxGroup(max);
}

// Sum of exp((logit - max) * inverse_temperature) over logits >= floor, all of them finite or -inf.
inline float SumExpBlock(const float* logits, int64_t size, float max, float inverse_temperature,
                         float floor) {
  const FloatTag tag;
  const FloatVector max_vector = hn::Set(tag, max);
  const FloatVector scale = hn::Set(tag, inverse_temperature);
  const FloatVector floor_vector = hn::Set(tag, floor);
  Group sum = BroadcastGroup(0.0f);
  const auto add = [&](const float* from) HWY_ATTR {
    for (int v = 0; v < kVectors; ++v) {
      const FloatVector logit = hn::LoadU(tag, from + v * kLanes);
      const FloatVector p = hn::Exp(tag, hn::Mul(hn::Sub(logit, max_vector), scale));
      sum.v[v] = hn::Add(sum.v[v], hn::IfThenZeroElse(hn::Lt(logit, floor_vector), p));
    }
  };
  ForEachPaddedGroup(logits, size, add);
  return SumGroup(sum);
}

inline double SumExp(const float* logits, int64_t size, float max, float inverse_temperature = 1.0f,
                     float floor = std::numeric_limits<float>::lowest()) {
  double sum = 0.0;
  for (int64_t i = 0; i < size; i += kSumBlock) {
    sum += SumExpBlock(logits + i, std::min(kSumBlock, size - i), max, inverse_temperature, floor);
  }
  return sum;
}

// Calls visit(index) in ascending order for every logit >= bound(); bound may rise meanwhile.
template <typename Bound, typename Visit>
inline void VisitAtLeast(const float* logits, int64_t size, const Bound& bound,
                         const Visit& visit) {
  const FloatTag tag;
  ForEachGroup(size, [&](int64_t i, int count) HWY_ATTR {
    if (count == kPanelWidth) {
      const FloatVector bound_vector = hn::Set(tag, bound());
      bool none = true;
      for (int v = 0; v < kVectors; ++v) {
        const FloatVector logit = hn::LoadU(tag, logits + i + v * kLanes);
        none = none && hn::AllFalse(tag, hn::Ge(logit, bound_vector));
      }
      if (HWY_LIKELY(none)) return;
    }
    for (int lane = 0; lane < count; ++lane) {
      if (logits[i + lane] >= bound()) visit(i + lane);
    }
  });
}

// Keeps the `limit` largest logits of those offered in ascending order of token: descending,
// the lower token first on ties.
class TopLogits {
 public:
  TopLogits(std::span<TokenLogprob> entries, int limit, int& count)
      : entries_(entries), limit_(limit), count_(count) {}

  void Offer(const float* logits, int64_t size, int64_t first_token) {
    if (limit_ == 0) return;
    VisitAtLeast(
        logits, size, [&] { return Bound(); },
        [&](int64_t i) { Insert(static_cast<int32_t>(first_token + i), logits[i]); });
  }

 private:
  // An equal logit of a later token does not displace the last entry.
  float Bound() const {
    if (count_ < limit_) return std::numeric_limits<float>::lowest();
    return std::nextafter(entries_[limit_ - 1].logprob, std::numeric_limits<float>::infinity());
  }

  void Insert(int32_t token, float logit) {
    int slot = count_ < limit_ ? count_++ : limit_ - 1;
    for (; slot > 0 && entries_[slot - 1].logprob < logit; --slot) {
      entries_[slot] = entries_[slot - 1];
    }
    entries_[slot] = {token, logit};
  }

  std::span<TokenLogprob> entries_;
  int limit_;
  int& count_;
};

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // PARALLAX_KERNELS_CPU_LOGITS_INL_H_
