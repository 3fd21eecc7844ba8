// Drives a ModelRunner by hand: the test decides what each step holds.
//
// Thread safety: none needed.
#ifndef PARALLAX_TESTS_ENGINE_RUNNER_RUNNER_DRIVER_H_
#define PARALLAX_TESTS_ENGINE_RUNNER_RUNNER_DRIVER_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "engine/runner/model_runner.h"

namespace parallax::testing {

struct DrivenSequence {
  std::vector<int32_t> prompt;
  SamplingParams params = {};
  int32_t choice_index = 0;

  int32_t slot = -1;
  int32_t computed = 0;  // tokens whose K and V are in the cache
  std::vector<int32_t> pages = {};
  std::vector<int32_t> generated = {};
  std::vector<SampledToken> samples = {};
  int32_t in_flight = 0;  // tokens that launched steps sample: the backend alone will know them

  int32_t known_length() const { return static_cast<int32_t>(prompt.size() + generated.size()); }
  int32_t length() const { return known_length() + in_flight; }
  int32_t TokenAt(int32_t position) const;  // REQUIRES: known
};

class RunnerDriver {
 public:
  explicit RunnerDriver(ModelRunner& runner) : runner_(runner) {}

  /// Adds to the batch being built; Step or Launch launches it.
  void Attach(DrivenSequence& sequence, int32_t slot);
  void Detach(DrivenSequence& sequence);
  /// The next `count` tokens; when they reach the sequence's end, one token is sampled. A token
  /// that is in flight, and with `from_slot` any, is left to the backend's memory of the last
  /// sample.
  void Add(DrivenSequence& sequence, int32_t count, bool from_slot = false);
  /// Samples first tokens for `choices` from the row that ends the last added chunk.
  void Fork(const std::vector<DrivenSequence*>& choices);
  void ScorePrompt(const DrivenSequence& sequence, int32_t first_row, int32_t count, int32_t top_k);
  ForwardBatch& batch() { return batch_; }

  /// Launches, collects, appends samples to their sequences. Throws on an error.
  StepResult Step();
  /// The two halves of Step. What is sampled goes to its sequences when it is collected, so they
  /// stay where they are until then.
  void Launch();
  StepResult Collect();
  int in_flight() const { return static_cast<int>(flights_.size()); }

  /// Prefill in chunks, then decode until `tokens` were generated, alone in the batch.
  void Generate(DrivenSequence& sequence, int32_t tokens, int32_t chunk = 512);

  int32_t NewPage() { return next_page_++; }

 private:
  struct Flight {
    ForwardBatch batch;
    std::vector<DrivenSequence*> sampled;  // in the order of batch.samples
  };

  ModelRunner& runner_;
  ForwardBatch batch_;
  std::vector<DrivenSequence*> sampled_;
  std::deque<Flight> flights_;  // the oldest first
  std::vector<std::vector<int32_t>> tables_;
  int32_t next_page_ = 0;
  uint64_t next_step_ = 1;
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_RUNNER_RUNNER_DRIVER_H_
