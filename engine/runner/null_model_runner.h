// NullModelRunner: `--model null`, a model that costs nothing.
//
// It shows what scheduler, cache and server cost by themselves, and lets their tests run at
// full speed. Tokens are a hash of (seed, choice index, output position), so a request gives
// the same tokens whatever else runs, before and after a preemption. Log-probabilities are
// those of the uniform distribution: -log(vocab_size), the lowest ids first.
//
// A step may take a time of its own, as on a device: the processors are free meanwhile, and the
// tokens come at a pace that they do not set.
//
// Thread safety: as ModelRunner.
#ifndef PARALLAX_ENGINE_RUNNER_NULL_MODEL_RUNNER_H_
#define PARALLAX_ENGINE_RUNNER_NULL_MODEL_RUNNER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/runner/model_runner.h"

namespace parallax {

struct NullModelRunnerOptions {
  int32_t vocab_size = 32000;
  /// Tokens are drawn from [first_token, vocab_size): leave out the ids of EOS and the like.
  int32_t first_token = 0;
  int32_t max_context_tokens = 4096;
  int32_t sliding_window = 0;
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 8192;
  int32_t num_pages = 16384;
  int32_t max_steps_in_flight = 1;
  /// How long a step takes, [0, 1 h]; one launched behind another begins when that has ended.
  std::chrono::nanoseconds step_time{0};
};

class NullModelRunner final : public ModelRunner {
 public:
  /// INVALID_ARGUMENT naming the option that is out of range.
  static absl::StatusOr<std::unique_ptr<NullModelRunner>> Create(
      const NullModelRunnerOptions& options);

  const RunnerLimits& limits() const override { return limits_; }
  const ModelDescription& description() const override { return description_; }
  absl::Status Launch(const ForwardBatch& batch) override;
  absl::StatusOr<const StepResult*> Collect() override;

  /// The token that a request with this seed gets at this position.
  int32_t TokenAt(uint64_t seed, int32_t choice_index, int32_t output_position) const;

 private:
  struct Slot {
    const SamplingParams* params = nullptr;
    int32_t choice_index = 0;
  };
  struct Step {
    StepResult result;
    std::chrono::steady_clock::time_point end;
  };

  explicit NullModelRunner(const NullModelRunnerOptions& options);
  int32_t AppendTop(int32_t top_k, StepResult& result) const;

  const int32_t first_token_;
  const std::chrono::nanoseconds step_time_;
  const float logprob_;
  RunnerLimits limits_;
  ModelDescription description_;
  std::vector<Slot> slots_;
  std::vector<Step> steps_;  // a ring: those in flight, plus the two collected last
  std::chrono::steady_clock::time_point last_end_;
  uint64_t launched_ = 0;
  uint64_t collected_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_NULL_MODEL_RUNNER_H_
