#include "engine/step_pipeline.h"

#include "absl/strings/str_cat.h"
#include "engine/runner/batch_builder.h"

namespace parallax {

StepPipeline::StepPipeline(Scheduler* scheduler, ModelRunner* runner)
    : scheduler_(scheduler), runner_(runner), steps_(runner->limits().max_steps_in_flight) {}

absl::StatusOr<const ScheduledBatch*> StepPipeline::Launch(absl::Time now) {
  Step& step = steps_[(head_ + in_flight_) % steps_.size()];
  if (!scheduler_->Schedule(now, &step.scheduled)) return nullptr;
  ++in_flight_;
  step.launched = now;
  BuildForwardBatch(step.scheduled, &step.forward);
  if (absl::Status s = runner_->Launch(step.forward); !s.ok()) return s;
  return &step.scheduled;
}

absl::StatusOr<const StepResult*> StepPipeline::Collect() {
  absl::StatusOr<const StepResult*> result = runner_->Collect();
  if (!result.ok()) return result;
  const ForwardBatch& asked = steps_[head_].forward;
  const StepResult& got = **result;
  if (got.samples.size() == asked.samples.size() &&
      got.prompt_logprobs.size() == asked.prompt_targets.size()) {
    return result;
  }
  return absl::InternalError(
      absl::StrCat("step ", asked.step_id, ": the backend returned ", got.samples.size(),
                   " samples and ", got.prompt_logprobs.size(), " prompt log-probabilities for ",
                   asked.samples.size(), " and ", asked.prompt_targets.size()));
}

void StepPipeline::CompleteOldest() {
  scheduler_->CompleteStep(oldest());
  head_ = (head_ + 1) % steps_.size();
  --in_flight_;
}

}  // namespace parallax
