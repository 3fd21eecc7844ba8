// SchedulerDriver: plays an engine with random clients against a scheduler and a FakeModel.
//
// Everything follows from (mode, seed): limits, arrivals, lengths, priorities, choices,
// cancellations at every point between two calls, how many steps are in flight. After each
// step it checks the scheduler's invariants, who touches which page, the policy (budget,
// decodes first, order of admission, progress of the first sequence), the K/V of every
// visible position, and at the end of each choice that its tokens are those it must have.
#ifndef PARALLAX_TESTS_ENGINE_SCHEDULER_SCHEDULER_DRIVER_H_
#define PARALLAX_TESTS_ENGINE_SCHEDULER_SCHEDULER_DRIVER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/fake_model.h"
#include "tests/engine/scheduler/page_use_checker.h"

namespace parallax::testing {

struct DriverMode {
  int32_t steps_in_flight = 1;
  bool prefix_cache = true;
  bool sliding_window = false;
};

/// What happened, so that a test can see that it tested something.
struct DriverCounts {
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t requests = 0;
  int64_t cancelled = 0;
  int64_t preemptions = 0;
  int64_t page_copies = 0;
  int64_t prefix_hits = 0;
  int64_t forked_samples = 0;
  int64_t tokens_from_slot = 0;
  int64_t sat_out = 0;
};

class SchedulerDriver {
 public:
  SchedulerDriver(const DriverMode& mode, uint64_t seed);

  /// Runs `steps` steps with new requests and then until all are done. Adds to `counts`.
  /// Empty, or the first thing that is wrong.
  std::string Run(int64_t steps, DriverCounts* counts);

 private:
  struct StepSlot {
    ScheduledBatch scheduled;
    ForwardBatch batch;
  };

  int32_t Uniform(int32_t low, int32_t high);
  bool Chance(double probability);
  SchedulerOptions RandomOptions(const DriverMode& mode);
  RunnerLimits Limits() const;
  Request RandomRequest();
  std::vector<int32_t> RandomPrompt();

  std::string Iterate();
  void Arrive();
  void CancelSomething();
  void CancelGroup(SequenceGroup* group);
  std::string LaunchStep();
  std::string CollectStep();
  std::string DeliverTokens(const StepResult& result);
  std::string EndChoice(Sequence* sequence, bool complete);
  void RemoveReleased();

  // Policy, around a call of Schedule.
  void LookBefore();
  std::string CheckScheduled(bool scheduled, const ScheduledBatch& batch);
  std::string CheckBudget(const ScheduledBatch& batch) const;
  std::string CheckDecodes(const ScheduledBatch& batch);
  std::string CheckAdmissions(const ScheduledBatch& batch) const;
  std::string CheckProgress(bool scheduled) const;
  std::string CheckEnd() const;
  bool HasWork() const;
  int32_t in_flight() const { return static_cast<int32_t>(launched_ - collected_); }

  std::mt19937_64 random_;
  const DriverMode mode_;
  const SchedulerOptions options_;
  Scheduler scheduler_;
  FakeModel model_;
  PageUseChecker page_use_;
  std::vector<std::vector<int32_t>> documents_;  // prompts begin like one of these
  double arrival_chance_ = 0;
  double cancel_chance_ = 0;
  int32_t max_groups_ = 0;
  bool arriving_ = true;

  std::array<StepSlot, 2> steps_;
  uint64_t launched_ = 0;
  uint64_t collected_ = 0;
  uint64_t arrivals_ = 0;
  uint64_t ended_choices_ = 0;
  uint64_t added_choices_ = 0;
  DriverCounts counts_;
  std::unordered_map<const SequenceGroup*, int32_t> targets_;  // prompt tokens scored

  // LookBefore's.
  std::vector<Sequence*> decodes_;
  Sequence* first_running_ = nullptr;
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_SCHEDULER_SCHEDULER_DRIVER_H_
