// Scheduler::Impl: the scheduler's state. Its methods are split by subject: step.cc (what a
// step contains and what its completion does), admission.cc (waiting -> running),
// preemption.cc (running -> waiting, finished), invariants.cc.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_SCHEDULER_SCHEDULER_IMPL_H_
#define PARALLAX_ENGINE_SCHEDULER_SCHEDULER_IMPL_H_

#include <memory>
#include <string>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "engine/scheduler/sequence_pages.h"
#include "engine/scheduler/waiting_queue.h"

namespace parallax {

class Scheduler::Impl {
 public:
  explicit Impl(const SchedulerOptions& options);

  const SchedulerOptions& options() const { return options_; }
  const std::vector<std::unique_ptr<SequenceGroup>>& groups() const { return groups_; }

  absl::Status CheckFits(const Request& request) const;
  SequenceGroup* Add(Request request, uint64_t arrival);
  void Remove(SequenceGroup* group);
  SchedulerCounts Counts() const;
  int32_t FlushPrefixCache() { return pages_.Flush(); }

  // step.cc
  bool Schedule(absl::Time now, ScheduledBatch* batch);
  void CompleteStep(const ScheduledBatch& batch);

  // preemption.cc
  void Finish(Sequence* sequence);
  void FinishGroup(SequenceGroup* group);
  void FinishGroupUncached(SequenceGroup* group);

  // invariants.cc
  std::string CheckInvariants() const;

 private:
  // step.cc
  int32_t CountDecodes() const;
  int32_t PrefillBudget(int32_t decodes) const;
  int32_t NextChunk(const Sequence& sequence) const;
  void ScheduleRunning();
  bool SecurePages(int32_t end, Sequence* sequence);
  int32_t PagesOwedByEarlierSteps() const;
  bool MustSitOut(const Sequence& sequence) const;
  void Emit(int32_t num_tokens, bool decode, Sequence* sequence);
  void OrderDecodes();
  void ScorePrompt(ScheduledSequence* entry) const;
  void EmitSamples();
  void Fork(const Sequence& leader);
  void Advance(int32_t end, Sequence* sequence);

  // admission.cc
  void AdmitWaiting(absl::Time now);
  bool TryAdmit(absl::Time now, Sequence* leader);
  bool BlockedAsBefore(const Sequence& leader) const;
  bool FindRoom(const Sequence& leader, SequencePages::PrefixHit* hit);
  int32_t ReservedEntries(const Sequence& leader, const SequencePages::PrefixHit& hit) const;
  void CountPrefixHit(absl::Time now, const Sequence& leader, int32_t hit_tokens);
  void AttachSlot(Sequence* sequence);
  void AttachUnit(Sequence* leader);

  // preemption.cc
  void Preempt(Sequence* sequence);
  void StandDownFollowers(SequenceGroup* group);
  void End(Sequence* sequence);
  void LeaveRunning(Sequence* sequence);
  void JoinRunning(Sequence* sequence);
  void SetState(Sequence* sequence, SequenceState next);
  void ReleaseOrOwe(Sequence* sequence);
  void ReleaseResources(Sequence* sequence);

  // invariants.cc
  std::string CheckPages() const;
  std::string CheckSlots() const;
  std::string CheckQueues() const;
  std::string CheckGroup(const SequenceGroup& group) const;
  std::string CheckSequence(const Sequence& sequence) const;

  const SchedulerOptions options_;
  const int32_t max_chunk_;     // prompt tokens of one sequence in a step
  const int32_t window_pages_;  // pages that a window and a chunk can touch; 0 without window

  std::vector<std::unique_ptr<SequenceGroup>> groups_;
  std::vector<Sequence*> running_;  // in policy order
  WaitingQueue waiting_;            // leaders of units, and choices that run on their own
  SequencePages pages_;
  std::vector<int32_t> free_slots_;      // a stack
  std::vector<int32_t> detached_slots_;  // not told to the backend yet

  int32_t num_unfinished_groups_ = 0;
  int32_t num_running_groups_ = 0;
  int32_t num_preemptions_ = 0;  // not in a batch yet

  uint64_t last_step_ = 0;       // scheduled
  uint64_t last_completed_ = 0;  // step_id

  // The step being planned.
  ScheduledBatch* batch_ = nullptr;
  std::vector<ScheduledSequence> prefills_;  // appended after the decodes
  int32_t prefill_budget_ = 0;
  int32_t claimed_pages_ = 0;  // by running sequences that sit this step out
  bool preempted_ = false;

  // A head of the queue that found no room is not looked at again before there is more.
  const Sequence* blocked_head_ = nullptr;
  int32_t blocked_available_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SCHEDULER_SCHEDULER_IMPL_H_
