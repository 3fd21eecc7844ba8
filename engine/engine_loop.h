// EngineLoop: what the engine thread does, turn after turn.
//
//   take messages -> check deadlines -> launch steps -> collect the oldest -> deliver
//
// Messages are taken at this one point, between steps; with nothing to run the thread waits
// for the next one. There is no timer: a request that waits or runs implies steps, and every
// step is followed by a look at the deadlines.
//
// Thread safety: Run is the engine thread; nothing else touches the object meanwhile. Other
// threads speak through the Inbox and read the StatsBoard.
#ifndef PARALLAX_ENGINE_ENGINE_LOOP_H_
#define PARALLAX_ENGINE_ENGINE_LOOP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/deadline_watch.h"
#include "engine/engine.h"
#include "engine/engine_observer.h"
#include "engine/inbox.h"
#include "engine/output_processor.h"
#include "engine/runner/model_runner.h"
#include "engine/scheduler/scheduler.h"
#include "engine/stats_board.h"
#include "engine/step_pipeline.h"

namespace parallax {

class EngineLoop {
 public:
  /// Everything pointed to outlives the loop.
  EngineLoop(const SchedulerOptions& options, std::vector<int32_t> eos_token_ids,
             Scheduler* scheduler, ModelRunner* runner, Inbox* inbox, StatsBoard* board,
             EngineObserver* observer);

  /// Returns once the inbox was told to stop and every live request has ended.
  void Run();

 private:
  void HandleMessages();
  void FlushPrefixCache();
  void TakeIn(LiveRequest* live);
  void EndAll(absl::Status scheduled_status, absl::Status queued_status);
  void CheckDeadlines();

  void LaunchSteps();
  void NoteAdmissions(const ScheduledBatch& batch);
  void CollectStep();
  void CountStep(const StepStats& step);
  void Break(const absl::Status& status);

  void Deliver();
  void CountFinished(const LiveRequest& live, absl::Time now);
  void RemoveReleasedGroups();
  void Publish();

  Scheduler* const scheduler_;
  ModelRunner* const runner_;
  Inbox* const inbox_;
  StatsBoard* const board_;
  EngineObserver* const observer_;
  DeadlineWatch deadlines_;
  OutputProcessor output_;
  StepPipeline pipeline_;

  Inbox::Messages messages_;
  bool stopping_ = false;
  uint64_t arrivals_ = 0;
  absl::Time last_collected_ = absl::InfinitePast();
  std::vector<SequenceGroup*> releasing_;  // ended, but a step in flight may use their pages
  EngineStats stats_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_ENGINE_LOOP_H_
