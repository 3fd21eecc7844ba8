// FakeModelRunner: a scripted backend for tests of the engine.
//
// The test holds a FakeModel, the engine the runner that plays it. What a request generates
// is found by its seed: a script of tokens, and after (or without) it a hash of (seed,
// choice, position), never an id below kFirstToken. Rows come out wrong on purpose where the
// test says so, steps can be held, and the backend can break. Every ForwardBatch is checked
// against its contract and against what each slot must have seen before.
//
// Thread safety: FakeModel may be used from any thread.
#ifndef PARALLAX_TESTS_ENGINE_FAKE_MODEL_RUNNER_H_
#define PARALLAX_TESTS_ENGINE_FAKE_MODEL_RUNNER_H_

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/runner/model_runner.h"

namespace parallax {

class FakeModel {
 public:
  static constexpr int32_t kFirstToken = 16;

  /// One launched step, for tests of scheduling.
  struct Step {
    int32_t rows = 0;
    std::vector<uint64_t> sampled_seeds;
  };

  /// Choice 0 of requests with this seed generates `tokens` first.
  void Script(uint64_t seed, std::vector<int32_t> tokens);
  /// The logits of this output position hold NaN.
  void PoisonSample(uint64_t seed, int32_t position);
  /// No token is left to sample there.
  void BanSample(uint64_t seed, int32_t position);
  /// NaN in those that score this request's prompt.
  void PoisonPrompt(uint64_t seed);
  /// The launch (collection) of the step-th step from the start, 0 based, fails.
  void FailLaunch(int64_t step);
  void FailCollect(int64_t step);
  /// The backend refuses to run steps with this request.
  void Refuse(uint64_t seed);

  /// Collect waits from now on.
  void Hold();
  /// Launch does, as on a CPU: there it is the whole step.
  void HoldInLaunch();
  /// Lets `steps` more steps be collected.
  void Allow(int64_t steps);
  void Release() { Allow(std::numeric_limits<int64_t>::max() / 2); }
  /// Waits until a step is held.
  void AwaitHeld();

  std::vector<Step> steps() const;
  /// Empty, or the first thing wrong with a batch.
  std::string violation() const;

  static int32_t TokenAt(uint64_t seed, int32_t choice, int32_t position, int32_t vocab_size);
  static float LogprobOf(int32_t token) { return -0.001f * static_cast<float>(token); }

 private:
  friend class FakeModelRunner;

  void AwaitAllowed() PARALLAX_REQUIRES(mutex_);

  mutable Mutex mutex_;
  CondVar changed_;
  std::map<uint64_t, std::vector<int32_t>> scripts_ PARALLAX_GUARDED_BY(mutex_);
  std::set<std::pair<uint64_t, int32_t>> poisoned_samples_ PARALLAX_GUARDED_BY(mutex_);
  std::set<std::pair<uint64_t, int32_t>> banned_samples_ PARALLAX_GUARDED_BY(mutex_);
  std::set<uint64_t> poisoned_prompts_ PARALLAX_GUARDED_BY(mutex_);
  std::set<uint64_t> refused_ PARALLAX_GUARDED_BY(mutex_);
  int64_t fail_launch_ PARALLAX_GUARDED_BY(mutex_) = -1;
  int64_t fail_collect_ PARALLAX_GUARDED_BY(mutex_) = -1;
  bool held_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool held_in_launch_ PARALLAX_GUARDED_BY(mutex_) = false;
  int64_t allowed_ PARALLAX_GUARDED_BY(mutex_) = 0;
  bool waiting_ PARALLAX_GUARDED_BY(mutex_) = false;
  std::vector<Step> steps_ PARALLAX_GUARDED_BY(mutex_);
  std::string violation_ PARALLAX_GUARDED_BY(mutex_);
};

class FakeModelRunner final : public ModelRunner {
 public:
  FakeModelRunner(const RunnerLimits& limits, std::shared_ptr<FakeModel> model);

  const RunnerLimits& limits() const override { return limits_; }
  const ModelDescription& description() const override { return description_; }
  absl::Status Launch(const ForwardBatch& batch) override;
  absl::StatusOr<const StepResult*> Collect() override;

 private:
  struct Slot {
    const SamplingParams* params = nullptr;
    int32_t choice = 0;
    std::vector<int32_t> history;  // prompt and output so far
  };

  std::string UpdateSlots(const ForwardBatch& batch);
  std::string CheckRows(const ForwardBatch& batch) const;
  bool IsRefused(const ForwardBatch& batch) const;
  void Sample(const ForwardBatch& batch, StepResult* result);
  void ScorePrompts(const ForwardBatch& batch, StepResult* result);
  int32_t AppendTop(int32_t first_id, int32_t count, StepResult* result) const;

  const RunnerLimits limits_;
  ModelDescription description_;
  const std::shared_ptr<FakeModel> model_;
  std::vector<Slot> slots_;
  std::vector<StepResult> results_;  // a ring
  int64_t launched_ = 0;
  int64_t collected_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_TESTS_ENGINE_FAKE_MODEL_RUNNER_H_
