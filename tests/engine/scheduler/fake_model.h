// FakeModel: a backend whose K/V can be checked.
//
// The "K/V" of a position is a hash of everything the sequence has seen up to it (tenant and
// tokens), kept in a simulated page store under the slot mapping of the batch. Before a row
// is "attended", every position it can see is compared with what that sequence must have
// there: a page that was shared wrongly, reused too early, not copied or not written shows
// at the first read. A sampled token is a function of the last position's hash and the
// choice alone, so what a request must generate is known beforehand (ExpectedToken).
//
// A request's identity travels in sampling.seed: FakeSeed(request, tenant).
#ifndef PARALLAX_TESTS_ENGINE_SCHEDULER_FAKE_MODEL_H_
#define PARALLAX_TESTS_ENGINE_SCHEDULER_FAKE_MODEL_H_

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "engine/runner/forward_batch.h"
#include "engine/runner/model_runner.h"

namespace parallax::testing {

inline constexpr int32_t kFakeVocab = 64;
inline constexpr int32_t kFakeTenants = 4;

constexpr uint64_t FakeSeed(uint64_t request, int32_t tenant) {
  return request * kFakeTenants + static_cast<uint64_t>(tenant);
}

/// The hash of no token, and of one more token after `previous`.
uint64_t FakeRootHash(uint64_t seed);
uint64_t FakeNextHash(uint64_t previous, int32_t token);
/// What is sampled after a position of this hash.
int32_t ExpectedToken(uint64_t hash, int32_t choice);
/// The first `count` tokens that a choice generates.
std::vector<int32_t> ExpectedTokens(uint64_t seed, std::span<const int32_t> prompt, int32_t choice,
                                    int32_t count);

class FakeModel {
 public:
  explicit FakeModel(const RunnerLimits& limits);

  /// Moves slots at once. The rest is run by Collect: in order, and as late as a backend
  /// may; until then `batch` must stay as it is. Empty, or what is wrong with the batch.
  std::string Launch(const ForwardBatch* batch);
  /// Runs the oldest step. Empty, or what is wrong with it.
  std::string Collect(StepResult* result);

 private:
  struct Slot {
    bool attached = false;
    int32_t choice = 0;
    int32_t num_prompt = 0;
    std::vector<int32_t> tokens;
    std::vector<uint64_t> hashes;  // [tokens]
  };

  std::string ApplySlots(const ForwardBatch& batch);
  std::string Write(const ForwardBatch& batch);
  std::string WriteRow(const ForwardBatch& batch, int row, const Slot& slot);
  std::string Read(const ForwardBatch& batch) const;
  std::string CheckPromptTargets(const ForwardBatch& batch) const;
  std::string Sample(const ForwardBatch& batch, StepResult* result);
  static void Append(Slot* slot, int32_t token, uint64_t root);

  const RunnerLimits limits_;
  std::deque<const ForwardBatch*> in_flight_;
  std::vector<Slot> slots_;
  std::vector<uint64_t> roots_;  // [slot]
  std::vector<uint64_t> pages_;  // [num_pages, 64]
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_SCHEDULER_FAKE_MODEL_H_
