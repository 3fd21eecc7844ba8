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
  bool full() const { return in_flight_ == steps_.size(); }

  /// Schedules and launches one more step. Null: there is nothing to schedule now. An error
  /// is the backend's; the step counts as in flight all the same. REQUIRES: not full.
  absl::StatusOr<const ScheduledBatch*> Launch(absl::Time now);

  /// Waits for the oldest step; checks that the result has its shape. REQUIRES: not empty.
  absl::StatusOr<const StepResult*> Collect();

  /// What the oldest step computes, and when it was launched.
  const ScheduledBatch& oldest() const { return steps_[head_].scheduled; }
  absl::Time oldest_launched() const { return steps_[head_].launched; }

  /// The oldest step's results were processed.
  void CompleteOldest();

 private:
  struct Step {
    ScheduledBatch scheduled;
    ForwardBatch forward;
    absl::Time launched;
  };

  Scheduler* const scheduler_;
  ModelRunner* const runner_;
  std::vector<Step> steps_;  // a ring
  size_t head_ = 0;          // the oldest
  size_t in_flight_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_STEP_PIPELINE_H_
