// BuildForwardBatch: turns a scheduler's plan into the plain data a backend runs.
//
// Row order, sequence order and sample order are the plan's: sequence s of the ForwardBatch
// is scheduled.sequences[s], sample i is scheduled.samples[i]. Prompt-logprob task t is that
// of the t-th scheduled sequence with num_targets > 0.
//
// Call it right after Schedule, before any Finish. `batch` is cleared and refilled; reuse
// one object per step in flight and nothing is allocated after warm-up.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_RUNNER_BATCH_BUILDER_H_
#define PARALLAX_ENGINE_RUNNER_BATCH_BUILDER_H_

#include "engine/runner/forward_batch.h"
#include "engine/scheduler/scheduled_batch.h"

namespace parallax {

void BuildForwardBatch(const ScheduledBatch& scheduled, ForwardBatch* batch);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_BATCH_BUILDER_H_
