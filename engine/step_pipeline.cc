#include "engine/step_pipeline.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/runner/batch_builder.h"

namespace parallax {

StepPipeline::StepPipeline(Scheduler* scheduler, ModelRunner* runner)
    : scheduler_(scheduler), runner_(runner), steps_(runner->limits().max_steps_in_flight) {}

const ScheduledBatch* StepPipeline::Schedule(absl::Time now) {
  Step& step = steps_[(head_ + in_flight_) % steps_.size()];
  if (!scheduler_->Schedule(now, &step.scheduled)) return nullptr;
  ++in_flight_;
  step.launched = now;
  step.refusal = absl::OkStatus();
  BuildForwardBatch(step.scheduled, &step.forward);
  return &step.scheduled;
}

absl::Status StepPipeline::Launch() {
  Step& step = steps_[(head_ + in_flight_ - 1) % steps_.size()];
  absl::Status launched = runner_->Launch(step.forward);
  if (!absl::IsInvalidArgument(launched)) return launched;
  step.refusal = std::move(launched);
  ++refusals_;
  return absl::OkStatus();
}

absl::StatusOr<const StepResult*> StepPipeline::Collect() {
  if (refused()) return steps_[head_].refusal;
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
  refusals_ -= refused() ? 1 : 0;
  head_ = (head_ + 1) % steps_.size();
  --in_flight_;
}

}  // namespace parallax
