// StepPipeline: the steps in flight, from schedule to collected result.
//
// With two steps allowed in flight the next one is scheduled and launched before the
// oldest is waited for, so that the device never waits for the host.
//
// Thread safety: engine thread only. Buffers are reused: nothing is allocated after warm-up.
#ifndef PARALLAX_ENGINE_STEP_PIPELINE_H_
#define PARALLAX_ENGINE_STEP_PIPELINE_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/runner/forward_batch.h"
#include "engine/runner/model_runner.h"
#include "engine/scheduler/scheduled_batch.h"
#include "engine/scheduler/scheduler.h"

namespace parallax {

class StepPipeline {
 public:
  StepPipeline(Scheduler* scheduler, ModelRunner* runner);

  bool empty() const { return in_flight_ == 0; }
  /// After a step that the backend refused nothing is launched until it is completed: the next
  /// one would go on from tokens that it did not sample.
  bool full() const { return in_flight_ == steps_.size() || refusals_ > 0; }

  /// Schedules one more step, in flight from now on. Null: there is nothing to schedule now.
  /// REQUIRES: not full; what was scheduled before is launched.
  const ScheduledBatch* Schedule(absl::Time now);
  /// Launches the step scheduled last. An error is the backend's, which is broken. That it
  /// refused the step is no error here: Collect tells.
  absl::Status Launch();

  /// Waits for the oldest step; checks that the result has its shape. An error while refused():
  /// the backend would not run this step, and goes on. REQUIRES: not empty.
  absl::StatusOr<const StepResult*> Collect();
  /// Whether the oldest step was refused.
  bool refused() const { return !steps_[head_].refusal.ok(); }

  /// What the oldest step computes, and when it was scheduled, to be launched at once.
  const ScheduledBatch& oldest() const { return steps_[head_].scheduled; }
  absl::Time oldest_launched() const { return steps_[head_].launched; }

  /// The oldest step's results were processed.
  void CompleteOldest();

 private:
  struct Step {
    ScheduledBatch scheduled;
    ForwardBatch forward;
    absl::Time launched;
    absl::Status refusal;
  };

  Scheduler* const scheduler_;
  ModelRunner* const runner_;
  std::vector<Step> steps_;  // a ring
  size_t head_ = 0;          // the oldest
  size_t in_flight_ = 0;
  size_t refusals_ = 0;  // steps in flight that were refused
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_STEP_PIPELINE_H_
