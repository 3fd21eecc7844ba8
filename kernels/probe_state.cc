#include "kernels/probe_state.h"

#include <algorithm>
#include <cmath>

namespace parallax::kernels {

void ClearProbeState(const ProbeStateRef& state) {
  *state.scalars = ProbeScalars{};
  std::fill_n(state.o1, state.head_dim, 0.0f);
  if (state.o2 != nullptr) std::fill_n(state.o2, state.head_dim, 0.0f);
}

void MergeProbeState(const ProbeStateRef& into, const ProbeStateRef& from) {
  ProbeScalars& a = *into.scalars;
  const ProbeScalars& b = *from.scalars;
  if (b.empty()) return;
  if (a.empty()) {
    a = b;
    std::copy_n(from.o1, from.head_dim, into.o1);
    if (from.o2 != nullptr) std::copy_n(from.o2, from.head_dim, into.o2);
    return;
  }
  const bool right_is_top = b.max > a.max;
  const float max = right_is_top ? b.max : a.max;
  const float centre = right_is_top ? b.centre : a.centre;
  const float weight_a = std::exp(a.max - max);
  const float weight_b = std::exp(b.max - max);
  const float shift_a = a.centre - centre;
  const float shift_b = b.centre - centre;
  if (into.o2 != nullptr) {
    for (int d = 0; d < into.head_dim; ++d) {
      into.o2[d] = weight_a * (into.o2[d] + shift_a * into.o1[d]) +
                   weight_b * (from.o2[d] + shift_b * from.o1[d]);
    }
  }
  for (int d = 0; d < into.head_dim; ++d) {
    into.o1[d] = weight_a * into.o1[d] + weight_b * from.o1[d];
  }
  a.d2 = weight_a * (a.d2 + shift_a * a.d1) + weight_b * (b.d2 + shift_b * b.d1);
  a.d1 = weight_a * a.d1 + weight_b * b.d1;
  a.max = max;
  a.centre = centre;
}

void FinishProbeState(const ProbeStateRef& state, float v_scale, float* out) {
  const ProbeScalars& s = *state.scalars;
  if (s.empty()) {
    std::fill_n(out, state.head_dim, 0.0f);
    return;
  }
  const float inverse = 1.0f / s.d1;
  if (state.o2 == nullptr) {
    for (int d = 0; d < state.head_dim; ++d) out[d] = v_scale * (state.o1[d] * inverse);
    return;
  }
  const float correction = 1.0f + s.d2 * inverse;
  for (int d = 0; d < state.head_dim; ++d) {
    out[d] = v_scale * (state.o1[d] * inverse * correction - state.o2[d] * inverse);
  }
}

}  // namespace parallax::kernels
