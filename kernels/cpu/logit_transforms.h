// The sparse transforms of sampling: bias, penalties, bans and the allowed-token mask.
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_KERNELS_CPU_LOGIT_TRANSFORMS_H_
#define PARALLAX_KERNELS_CPU_LOGIT_TRANSFORMS_H_

#include <span>

#include "kernels/sampling.h"

namespace parallax::kernels::cpu {

// Applies them to `logits`, the tokens below the token limit, in the order that
// kernels/sampling.h states. What must not be sampled becomes -inf.
void TransformLogits(const SamplingRow& row, std::span<float> logits);

}  // namespace parallax::kernels::cpu

#endif  // PARALLAX_KERNELS_CPU_LOGIT_TRANSFORMS_H_
