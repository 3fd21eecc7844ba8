// The probe state: what one query row knows after reading a set of keys.
//
// With the notation of kernels/parallax_attention.h a state over a set of keys is
// (m, d1, d2, o1[D], o2[D]), and states of disjoint sets merge:
//   M = max(ma, mb);  every other part is  xa * exp(ma - M) + xb * exp(mb - M).
// The merge is associative and commutative with the empty state (m = -inf, zeros) as identity,
// so whatever splits the keys is one fold over this monoid.
//
// Every s2 is taken relative to a centre c, the s2 of the row's top key so far: out does not
// change when a constant is subtracted from all s2, and the two terms of out then cancel
// among small numbers. Moving the centre from c to c' is
//   d2 += (c - c') * d1,  o2 += (c - c') * o1.
// A merge takes the centre of the side with the larger maximum (the left one on a tie).
//
// Thread safety: plain data.
#ifndef PARALLAX_KERNELS_PROBE_STATE_H_
#define PARALLAX_KERNELS_PROBE_STATE_H_

#include <cstdint>
#include <limits>

namespace parallax::kernels {

struct ProbeScalars {
  float max = -std::numeric_limits<float>::infinity();  // m
  float centre = 0.0f;                                  // c
  float d1 = 0.0f;
  float d2 = 0.0f;

  // Not by the maximum alone: scores that overflow to -inf leave a NaN in d1 to be seen.
  bool empty() const { return max == -std::numeric_limits<float>::infinity() && d1 == 0.0f; }
};

// One row's state in memory that someone else owns. Without o2 the probe is off: softmax.
struct ProbeStateRef {
  ProbeScalars* scalars = nullptr;
  float* o1 = nullptr;  // [head_dim]
  float* o2 = nullptr;  // [head_dim], or null
  int head_dim = 0;
};

// Makes `state` the empty state.
void ClearProbeState(const ProbeStateRef& state);

// into = merge(into, from). An empty side leaves the other's bits as they are.
void MergeProbeState(const ProbeStateRef& into, const ProbeStateRef& from);

// out[d] = v_scale * ((o1/d1) * (1 + d2/d1) - o2/d1); zeros for the empty state.
void FinishProbeState(const ProbeStateRef& state, float v_scale, float* out);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_PROBE_STATE_H_
