// Sequence and SequenceGroup: the scheduler's view of one request.
//
// A group is a request; its sequences are its n choices. Lengths (all in tokens):
//   tokens.size()   known tokens: prompt plus generated
//   num_prompt      of them, prompt
//   num_scheduled   positions whose K/V have been, or are being, written by launched steps
//   num_computed    positions whose K/V are in the cache (their step was collected)
//   pending         sampled in a step in flight, value not known yet (0..2)
// Invariants: num_computed <= num_scheduled <= tokens.size() + pending;
//             pages cover num_scheduled positions (less those behind a sliding window).
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_SCHEDULER_SEQUENCE_H_
#define PARALLAX_ENGINE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "engine/kv_cache/block_table.h"
#include "engine/request.h"

namespace parallax {

/// Waiting: no pages, no slot. Forking: the first choice's prefill will serve it too; it
/// holds a slot. Running: slot and pages. Finished: terminal; pages may still be held by a
/// step in flight.
enum class SequenceState { kWaiting, kForking, kRunning, kFinished };

struct SequenceGroup;

struct Sequence {
  SequenceGroup* group = nullptr;
  int32_t choice = 0;
  SequenceState state = SequenceState::kWaiting;
  int32_t slot = -1;

  std::vector<int32_t> tokens;  // reserved to prompt + max_tokens when the request is taken in
  int32_t num_prompt = 0;
  int32_t num_scheduled = 0;
  int32_t num_computed = 0;
  int32_t pending = 0;
  int32_t steps_in_flight = 0;  // launched steps that use this sequence's pages or slot
  int32_t num_preemptions = 0;
  BlockTable block_table;

  int32_t num_generated() const { return static_cast<int32_t>(tokens.size()) - num_prompt; }
  /// Asserts that the transition is one of the allowed ones.
  void TransitionTo(SequenceState next);
};

struct SequenceGroup {
  Request request;
  uint64_t arrival = 0;  // order within a priority class
  absl::Time submitted;
  std::vector<std::unique_ptr<Sequence>> sequences;  // [n], choice order
  int32_t cached_tokens = 0;      // prefix hit of the first admission
  absl::Time first_scheduled = absl::InfiniteFuture();
  void* owner = nullptr;  // the engine's record of the request; opaque to the scheduler
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SCHEDULER_SEQUENCE_H_
