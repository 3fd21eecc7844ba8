// Steps that a runner does before its first request, one of every kind that is not captured as a
// graph: what the CUDA runtime and cuBLASLt load and allocate when a kernel first runs must not
// happen in a request.
//
// Thread safety: a pure function.
#ifndef PARALLAX_ENGINE_CUDA_REHEARSAL_H_
#define PARALLAX_ENGINE_CUDA_REHEARSAL_H_

#include <vector>

#include "engine/runner/forward_batch.h"
#include "engine/runner/model_runner.h"

namespace parallax {

/// A prompt as long as a step can be, and prompts of one page beside a sequence that decodes, with
/// a page copied and rows scored where the limits allow: few at once, many, and more than
/// `score_group`. `params`, of the sequences, must outlive the batches. Pages and slots are used as
/// if all were free.
std::vector<ForwardBatch> RehearsalSteps(const RunnerLimits& limits, int score_group,
                                         const SamplingParams* params);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_REHEARSAL_H_
