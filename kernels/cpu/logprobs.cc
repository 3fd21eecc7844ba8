#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/logprobs.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/logits-inl.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

inline void AccumulateRow(const float* logits, int64_t width, int64_t column_begin,
                          int64_t token_limit, LogprobState& state) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float slice_max = MaxLogit(logits, width);
  if (slice_max == kInfinity) {
    state.has_nan = true;
  } else if (slice_max > -kInfinity) {
    const float max = std::max(state.max, slice_max);
    const double rescale = state.sum == 0.0 ? 0.0 : std::exp(double{state.max} - max);
    state.sum = state.sum * rescale + SumExp(logits, width, max);
    state.max = max;
  }
  if (state.target >= column_begin && state.target < column_begin + width) {
    state.target_logit = logits[state.target - column_begin];
  }
  const int64_t listed = std::clamp<int64_t>(token_limit - column_begin, 0, width);
  TopLogits(state.top, state.num_top, state.top_count).Offer(logits, listed, column_begin);
}

void AccumulateLogprobRows(const ConstTensorView& logits, int64_t column_begin, int64_t token_limit,
                           std::span<LogprobState> states, ThreadPool& pool) {
  ParallelRows(pool, logits.shape[0], logits.shape[1],
               [&](int64_t begin, int64_t end, int /*thread*/) {
                 for (int64_t row = begin; row < end; ++row) {
                   AccumulateRow(logits.as<float>() + row * logits.strides[0], logits.shape[1],
                                 column_begin, token_limit, states[row]);
                 }
               });
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace parallax::kernels::cpu {

HWY_EXPORT(AccumulateLogprobRows);

void AccumulateLogprobs(const ConstTensorView& logits, int64_t column_begin, int64_t token_limit,
                        std::span<LogprobState> states, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(AccumulateLogprobRows)(logits, column_begin, token_limit, states, pool);
}

}  // namespace parallax::kernels::cpu
#endif  // HWY_ONCE
