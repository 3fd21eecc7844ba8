// Sequence and SequenceGroup: the scheduler's view of one request.
//
// A group is a request; its sequences are its n choices. Lengths (all in tokens):
//   tokens.size()   prompt plus generated; none before the first slot, so that the queue holds a
//                   prompt once (in the request), not once more for every choice
//   num_prompt      of them, prompt
//   num_scheduled   positions whose K/V have been, or are being, written by launched steps
//   num_computed    positions whose K/V are in the cache (their step was collected)
//   pending         sampled in a step in flight, value not known yet (0..2)
// Invariants: num_computed <= num_scheduled <= tokens.size() + pending;
//             pages cover num_scheduled positions (less those behind a sliding window).
//
// Until the first prefill of a group reaches its last chunk, the group is one unit, led by
// its first choice: that one waits, is admitted and is preempted for all, and they end
// together. The last chunk forks it; from then on every choice goes its own way
// (SequenceGroup::forked).
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_SCHEDULER_SEQUENCE_H_
#define PARALLAX_ENGINE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/kv_cache/block_table.h"
#include "engine/kv_cache/prefix_cache.h"
#include "engine/request.h"

namespace parallax {

/// Waiting: no slot, and no pages but those a step in flight still uses. Forking: the first
/// choice's prefill will serve it too; it holds a slot. Running: slot and pages. Finished:
/// terminal; pages may still be held by a step in flight.
enum class SequenceState { kWaiting, kForking, kRunning, kFinished };

struct SequenceGroup;

struct Sequence {
  SequenceGroup* group = nullptr;
  int32_t choice = 0;
  SequenceState state = SequenceState::kWaiting;
  int32_t slot = -1;

  std::vector<int32_t> tokens;  // reserved to prompt + max_tokens with the first slot
  int32_t num_prompt = 0;
  int32_t num_scheduled = 0;
  int32_t num_computed = 0;
  int32_t pending = 0;
  int32_t steps_in_flight = 0;  // launched steps that use this sequence's pages or slot
  BlockTable block_table;

  // The rest is the scheduler's own.
  int32_t prefill_end = 0;      // known tokens at admission: below it, a chunk; above, a decode
  int32_t pages_published = 0;  // leading full pages offered to the prefix cache
  PrefixLink prefix;            // the last of them
  bool publishes = true;        // false once its chain of cached pages is broken
  int32_t pages_owed = 0;       // pages that its release will free, while a step delays it
  Sequence* queue_previous = nullptr;  // links of WaitingQueue
  Sequence* queue_next = nullptr;
  bool queued = false;

  int32_t num_generated() const {
    return tokens.empty() ? 0 : static_cast<int32_t>(tokens.size()) - num_prompt;
  }
  /// Prompt and generated tokens, from the request where `tokens` has none yet.
  std::span<const int32_t> known_tokens() const;
  /// Makes the prompt the first of `tokens`, unless there are some.
  void TakePrompt();
  /// Known and pending tokens: what num_scheduled may grow to.
  int32_t num_expected() const { return static_cast<int32_t>(tokens.size()) + pending; }
  bool prefilling() const { return num_scheduled < prefill_end; }
  /// Every token the request asked for is sampled or about to be.
  bool exhausted() const;
  /// Aborts unless the transition is one of the allowed ones.
  void TransitionTo(SequenceState next);
};

struct SequenceGroup {
  Request request;
  uint64_t arrival = 0;                              // order within a priority class
  std::vector<std::unique_ptr<Sequence>> sequences;  // [n], choice order
  int32_t cached_tokens = 0;                         // prefix hit of the first admission
  /// Time of the first admission; InfiniteFuture while the request never left the queue.
  absl::Time first_scheduled = absl::InfiniteFuture();
  void* owner = nullptr;  // the engine's record of the request; opaque to the scheduler

  // The rest is the scheduler's own.
  std::string prefix_root;     // extra keys of the prefix cache: tenant, adapter, weights
  bool forked = false;         // choices go their own ways
  int32_t next_target = 1;     // first prompt token whose log-probability is not scored yet
  int32_t num_running = 0;     // choices in state running
  int32_t num_unfinished = 0;  // choices not finished
  size_t index = 0;            // in Scheduler::groups()

  bool wants_prompt_logprobs() const { return request.sampling.prompt_logprobs.has_value(); }
};

inline std::span<const int32_t> Sequence::known_tokens() const {
  return tokens.empty() ? group->request.prompt : tokens;
}

inline bool Sequence::exhausted() const {
  return num_generated() + pending >= group->request.sampling.max_tokens;
}

/// The order of policy: priority value, arrival, choice. Total among live sequences.
bool RunsBefore(const Sequence& a, const Sequence& b);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SCHEDULER_SEQUENCE_H_
