#include "kernels/logprobs.h"

#include <cmath>
#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {
namespace {

constexpr char kOp[] = "AccumulateLogprobs";

void CheckStates(std::span<const LogprobState> states) {
  for (const LogprobState& state : states) {
    if (state.num_top >= 0 && state.num_top <= kMaxTopLogprobs) continue;
    ThrowKernelError(kOp, "num_top",
                     "must lie in [0, " + std::to_string(kMaxTopLogprobs) + "], is " +
                         std::to_string(state.num_top));
  }
}

}  // namespace

void AccumulateLogprobs(const ConstTensorView& logits, int64_t column_begin, int64_t token_limit,
                        std::span<LogprobState> states, const Stream& stream) {
  CheckTensor(kOp, "logits", logits, DType::kFloat32,
              {static_cast<int64_t>(states.size()), kAnyExtent}, stream);
  CheckAtLeast(kOp, "column_begin", column_begin, 0);
  CheckStates(states);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::AccumulateLogprobs(logits, column_begin, token_limit, states,
                                     stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

LogprobResult FinishLogprobs(const LogprobState& state) {
  LogprobResult result;
  result.has_nan = state.has_nan || !(state.sum > 0.0);
  if (result.has_nan) return result;
  const double log_sum = state.max + std::log(state.sum);
  result.target_logprob = static_cast<float>(state.target_logit - log_sum);
  result.top_count = state.top_count;
  for (int i = 0; i < state.top_count; ++i) {
    result.top[i] = {state.top[i].token, static_cast<float>(state.top[i].logprob - log_sum)};
  }
  return result;
}

}  // namespace parallax::kernels
