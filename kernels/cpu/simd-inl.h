// Vector helpers shared by the CPU ops: per-target include guard as Highway requires.
//
// Ops work on groups of kPanelWidth = 16 floats whatever the vector width: two vectors on
// AVX2, one on AVX-512. Reductions keep 16 partial sums and fold them in one fixed tree. So a
// result has the same bits on both. Fusing of multiply and add happens only where MulAdd says
// so (the library is compiled with -ffp-contract=off).
#if defined(PARALLAX_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PARALLAX_KERNELS_CPU_SIMD_INL_H_
#undef PARALLAX_KERNELS_CPU_SIMD_INL_H_
#else
#define PARALLAX_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/kv_cache_view.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, kPanelWidth>;
using FloatVector = hn::Vec<FloatTag>;
inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(FloatTag()));
inline constexpr int kVectors = kPanelWidth / kLanes;  // vectors in a group of 16

// 16 floats in vectors.
struct Group {
  FloatVector v[kVectors];
};

HWY_INLINE FloatVector LoadAsFloat(const float* from) { return hn::LoadU(FloatTag(), from); }

template <typename Half>
HWY_INLINE FloatVector LoadAsFloat(const Half* from) {
  const hn::Rebind<Half, FloatTag> half_tag;
  return hn::PromoteTo(FloatTag(), hn::LoadU(half_tag, from));
}

template <typename T>
HWY_INLINE Group LoadGroup(const T* from) {
  Group group;
  for (int i = 0; i < kVectors; ++i) group.v[i] = LoadAsFloat(from + i * kLanes);
  return group;
}

HWY_INLINE void StoreGroup(const Group& group, float* to) {
  for (int i = 0; i < kVectors; ++i) hn::StoreU(group.v[i], FloatTag(), to + i * kLanes);
}

HWY_INLINE Group BroadcastGroup(float value) {
  Group group;
  for (int i = 0; i < kVectors; ++i) group.v[i] = hn::Set(FloatTag(), value);
  return group;
}

// Folds 16 floats with `combine` in a tree that does not depend on the vector width.
template <typename Combine>
HWY_INLINE float FoldGroup(const Group& group, const Combine& combine) {
  HWY_ALIGN float lane[kPanelWidth];
  StoreGroup(group, lane);
  for (int half = kPanelWidth / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] = combine(lane[i], lane[i + half]);
  }
  return lane[0];
}

HWY_INLINE float SumGroup(const Group& group) {
  return FoldGroup(group, [](float a, float b) { return a + b; });
}

HWY_INLINE float MaxGroup(const Group& group) {
  return FoldGroup(group, [](float a, float b) { return a > b ? a : b; });
}

// exp(x) for x <= 88; exact at 0, 0 for -inf, and NaN for NaN (Highway's gives 0).
HWY_INLINE FloatVector ExpKeepingNaN(FloatVector x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(FloatTag(), x));
}

// Calls body(offset, count) for groups of 16 elements; count < 16 only in the last call.
template <typename Body>
HWY_INLINE void ForEachGroup(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + kPanelWidth <= size; i += kPanelWidth) body(i, kPanelWidth);
  if (i < size) body(i, static_cast<int>(size - i));
}

// As LoadGroup, for the `count` <= 16 elements that exist; zeros behind them, so that a tail
// goes through the same arithmetic as a full group.
template <typename T>
HWY_INLINE Group LoadGroupPart(const T* from, int count) {
  if (HWY_LIKELY(count == kPanelWidth)) return LoadGroup(from);
  T padded[kPanelWidth] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return LoadGroup(padded);
}

HWY_INLINE void StoreGroupPart(const Group& group, float* to, int count) {
  if (HWY_LIKELY(count == kPanelWidth)) return StoreGroup(group, to);
  HWY_ALIGN float padded[kPanelWidth];
  StoreGroup(group, padded);
  std::memcpy(to, padded, count * sizeof(float));
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // PARALLAX_KERNELS_CPU_SIMD_INL_H_
