// Random steps of many sequences, to be run with one or with two steps in flight: everything that
// happens follows from the seed alone, so that both runs launch the very same batches and must
// sample the very same tokens.
//
// Sequences enter and leave slots (a slot is often taken again in the step that frees it), are
// prefilled in chunks beside others that decode, are preempted and computed again, and fork into
// a second choice, which shares full pages and gets a copy of the last one. Their sampling
// parameters are of every kind.
//
// Thread safety: none needed.
#ifndef PARALLAX_TESTS_ENGINE_RUNNER_RANDOM_STEPS_H_
#define PARALLAX_TESTS_ENGINE_RUNNER_RANDOM_STEPS_H_

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "tests/engine/runner/runner_driver.h"

namespace parallax::testing {

/// What happened, so that a test can see that it tested something.
struct RandomStepCounts {
  int decode_steps = 0;
  int mixed_steps = 0;
  int preemptions = 0;
  int forks = 0;
  int page_copies = 0;
  int slots_taken_again = 0;  // in the step that freed them
};

class RandomSteps {
 public:
  /// Uses slots below `max_slots`, prompt tokens below `vocab` and steps of up to 512 rows.
  RandomSteps(uint64_t seed, int max_slots, int vocab);

  /// Launches `steps` steps, each as soon as fewer than `in_flight` are.
  void Run(ModelRunner& runner, int steps, int in_flight);

  /// Of each sequence, in order of arrival.
  std::vector<std::vector<SampledToken>> samples() const;
  const RandomStepCounts& counts() const { return counts_; }

 private:
  struct Member {
    DrivenSequence sequence;
    int output = 0;                // leaves after as many tokens
    int waits_until = 0;           // the step from which it may enter a slot (again)
    Member* fork = nullptr;        // its second choice, which enters with its first token
    bool forks_next_step = false;  // its pages are still to be had from its parent's
    bool is_fork = false;
    bool done = false;

    int Sampled() const { return static_cast<int>(sequence.generated.size()) + sequence.in_flight; }
  };

  int Uniform(int low, int high);
  bool Chance(double probability) { return Uniform(1, 1000) <= 1000 * probability; }
  Member& Arrive();
  SamplingParams RandomParams();
  int FreeSlot();
  void Leave(Member& member, RunnerDriver& driver);
  void Preempt(Member& member, RunnerDriver& driver);
  void Enter(RunnerDriver& driver);
  void TakePagesOfParents(RunnerDriver& driver);
  void AddRows(Member& member, RunnerDriver& driver);
  void BuildStep(RunnerDriver& driver);

  std::mt19937_64 random_;
  const int vocab_;
  const int max_chunk_;
  std::vector<Member*> slots_;
  std::vector<bool> freed_;     // in the step being built
  std::deque<Member> members_;  // stay where they are
  int step_ = 0;
  RandomStepCounts counts_;
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_RUNNER_RANDOM_STEPS_H_
