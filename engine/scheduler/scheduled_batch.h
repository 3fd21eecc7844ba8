// ScheduledBatch: what one step does, in terms of sequences. The batch builder
// (engine/runner/batch_builder.h) turns it into a ForwardBatch.
//
// Its vectors are reused from step to step. A sequence named here stays alive until the
// step is completed (Scheduler::CompleteStep), whatever happens to its request.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_SCHEDULER_SCHEDULED_BATCH_H_
#define PARALLAX_ENGINE_SCHEDULER_SCHEDULED_BATCH_H_

#include <cstdint>
#include <vector>

#include "engine/runner/forward_batch.h"
#include "engine/scheduler/sequence.h"

namespace parallax {

struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int32_t first_position = 0;
  int32_t num_tokens = 0;  // rows: 1 for a decode, a chunk for a prefill
  bool decode = false;
  bool samples = false;  // the last row's logits are sampled (for all choices on a fork)
  // Prompt log-probabilities: prompt tokens [first_target, first_target + num_targets) are
  // scored, each against the row of the position before it. Every prompt token but the
  // first is scored exactly once in the life of a request, preemptions included.
  int32_t first_target = 0;
  int32_t num_targets = 0;
};

/// A token that will come out of the step, in the order of StepResult::samples.
struct ScheduledSample {
  Sequence* sequence = nullptr;
  int32_t output_position = 0;
  /// Sampled from the same logits row as the sample before it: a choice that forks from
  /// its group's first prefill and has no rows of its own in this step.
  bool forked = false;
};

struct ScheduledBatch {
  uint64_t step_id = 0;
  std::vector<ScheduledSequence> sequences;  // decodes first, of these the longest context first
  std::vector<ScheduledSample> samples;
  std::vector<Sequence*> attached;      // got a slot in this step
  std::vector<int32_t> detached_slots;  // lost it since the last step
  std::vector<PageCopy> page_copies;
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  int32_t preemptions = 0;
  int64_t prefix_query_tokens = 0;  // counted on a request's first admission only
  int64_t prefix_hit_tokens = 0;
  void Clear();
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SCHEDULER_SCHEDULED_BATCH_H_
