// SchedulerHarness: a scheduler under hand control, one step at a time.
//
// Tokens are made up (the count of tokens sampled so far); a choice ends when it has
// max_tokens. Every call checks the scheduler's invariants.
#ifndef PARALLAX_TESTS_ENGINE_SCHEDULER_SCHEDULER_HARNESS_H_
#define PARALLAX_TESTS_ENGINE_SCHEDULER_SCHEDULER_HARNESS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/scheduler/scheduler.h"

namespace parallax::testing {

/// Token ids first, first + 1, ...
std::vector<int32_t> Tokens(int32_t count, int32_t first = 1000);

class SchedulerHarness {
 public:
  explicit SchedulerHarness(const SchedulerOptions& options) : scheduler_(options) {}

  /// Roomy limits: 64 pages, 8 sequences, 512 tokens a step, 4096 of context.
  static SchedulerOptions Options();
  static Request MakeRequest(std::vector<int32_t> prompt, int32_t max_tokens, int32_t n = 1);

  SequenceGroup* Add(Request request);
  SequenceGroup* Add(std::vector<int32_t> prompt, int32_t max_tokens, int32_t n = 1) {
    return Add(MakeRequest(std::move(prompt), max_tokens, n));
  }

  /// The planned step, or null if nothing is. Good until as many steps more are planned as
  /// may be in flight.
  const ScheduledBatch* Schedule();
  /// Samples the oldest step's tokens and completes it.
  void Complete();
  /// Schedule and Complete. REQUIRES: there is something to schedule.
  const ScheduledBatch& Step();
  /// Steps until the group is finished; how many it took.
  int RunToEnd(SequenceGroup* group);
  void RemoveReleased();

  /// Some request has not ended.
  bool HasWork() const {
    const SchedulerCounts counts = scheduler_.Counts();
    return counts.groups_running + counts.groups_waiting > 0;
  }
  /// How often it gave up its pages. REQUIRES: its group was not removed.
  int preemptions(const Sequence& sequence) const {
    const auto it = preemptions_.find(&sequence);
    return it == preemptions_.end() ? 0 : it->second;
  }

  Scheduler& scheduler() { return scheduler_; }
  int in_flight() const { return static_cast<int>(in_flight_.size()); }

 private:
  void CheckInvariants();

  Scheduler scheduler_;
  ScheduledBatch batches_[3];
  uint64_t planned_ = 0;
  std::deque<ScheduledBatch*> in_flight_;
  uint64_t arrivals_ = 0;
  int32_t sampled_ = 0;
  std::unordered_map<const Sequence*, int> preemptions_;
};

/// The batch's entry for a sequence; null if it is not in it.
const ScheduledSequence* EntryOf(const ScheduledBatch& batch, const Sequence& sequence);
inline Sequence& First(SequenceGroup* group) { return *group->sequences.front(); }

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_SCHEDULER_SCHEDULER_HARNESS_H_
