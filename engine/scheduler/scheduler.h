// Scheduler: decides what the next step computes.
//
// Policy. Every running sequence decodes one token in every step. What is left of the
// token budget goes to prefill, in chunks, of running prompts first and then of waiting
// requests: by priority value, then by arrival. In a step that decodes, prefill may be
// limited further, so that a long prompt does not hold up everyone's next token. A request is
// admitted only if its slots (all n choices) and the pages of its whole prompt are free; it is
// never overtaken within its class, nor by a worse class. When a sequence finds no page, the
// running sequence of the worst priority and latest arrival is preempted: pages freed, tokens kept,
// recomputed when there is room.
//
// Progress. Sequences run, and take pages, in the order of policy, and the victim of a
// preemption is the last in it, so the first running sequence is preempted only when it is
// alone. Alone it fits (CheckFits). Nothing is admitted before the head of the queue, which
// therefore runs at the latest when everything that ran before it has ended.
//
// Never needs the value of the last token: a step may be scheduled while earlier ones are
// in flight (SchedulerOptions::max_steps_in_flight). Pages and slots that a step in flight
// uses are released when that step is completed; until then a sequence that waits for them
// sits out, which with two steps in flight makes one step's gap. A preempted sequence keeps
// a token that is still being sampled: it is appended as usual and recomputed.
//
// Sliding window. Pages are freed once no later position can see them. A prompt longer than
// the window is admitted with the pages of a window and a chunk, and finds the rest as it
// moves on, like a decode does.
//
// Prefix cache. Full pages are shared by content once their step is completed. If all of a
// prompt is cached its last token alone is computed, into a copy of the last page. Requests
// for prompt log-probabilities take no hits until the prompt is scored.
//
// Thread safety: engine thread only, except CheckFits, which reads constants.
#ifndef PARALLAX_ENGINE_SCHEDULER_SCHEDULER_H_
#define PARALLAX_ENGINE_SCHEDULER_SCHEDULER_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/kv_cache/prefix_cache.h"
#include "engine/request.h"
#include "engine/scheduler/scheduled_batch.h"
#include "engine/scheduler/sequence.h"

namespace parallax {

struct SchedulerOptions {
  int32_t num_pages = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;  // >= max_num_seqs
  int32_t max_prefill_chunk = 0;       // 0 = only the budget limits
  // Prompt tokens of a step in which some sequence decodes; 0 = only the budget limits.
  int32_t max_mixed_prefill_tokens = 0;
  int32_t max_context_tokens = 0;
  int32_t sliding_window = 0;  // 0 = none
  int32_t max_steps_in_flight = 1;
  bool enable_prefix_cache = true;
  uint64_t weights_version = 0;
  /// Told of every page that enters or leaves the prefix cache; may be null.
  PrefixCacheObserver* prefix_cache_observer = nullptr;

  /// Most prompt tokens of one sequence in a step.
  int32_t MaxChunk() const {
    return max_prefill_chunk > 0 ? std::min(max_prefill_chunk, max_num_batched_tokens)
                                 : max_num_batched_tokens;
  }
};

struct SchedulerCounts {
  int32_t groups_running = 0;  // at least one choice has pages
  int32_t groups_waiting = 0;
  int32_t pages_total = 0;
  int32_t pages_used = 0;
  int32_t pages_cached = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);
  ~Scheduler();

  /// INVALID_ARGUMENT if the request could not run even alone: too long for the context or
  /// for the pages, or more choices than slots. Thread-safe.
  absl::Status CheckFits(const Request& request) const;

  /// Takes a request in (state waiting). REQUIRES: CheckFits was OK.
  SequenceGroup* Add(Request request, uint64_t arrival);

  /// Plans the next step into `batch` (cleared first). False if nothing can be scheduled
  /// now: then `batch` is empty and no step is counted; slots detached meanwhile are in the
  /// next one that is. Never false when no step is in flight and a sequence that still
  /// lacks tokens is live. REQUIRES: fewer than max_steps_in_flight scheduled steps are not
  /// completed.
  bool Schedule(absl::Time now, ScheduledBatch* batch);

  /// A sampled token of a live sequence became known. REQUIRES: not finished.
  /// The sequence is to be finished when it has max_tokens: no more are scheduled.
  void AppendToken(Sequence* sequence, int32_t token);

  /// Ends one choice: no step scheduled from now on contains it. REQUIRES: not finished, and
  /// it has a token or is the only choice: before that the choices of a request are one unit.
  void Finish(Sequence* sequence);
  /// Ends every choice that is not finished, whatever its state.
  void FinishGroup(SequenceGroup* group);
  /// As FinishGroup, and the pages of those choices leave the prefix cache: what the model
  /// wrote there cannot be trusted (NaN logits).
  void FinishGroupUncached(SequenceGroup* group);

  /// The oldest scheduled step was collected and its tokens appended: K/V positions become
  /// computed, full pages are published to the prefix cache, pages and slots of finished
  /// sequences are released. Frees no group, so pointers in `batch` stay good until Remove.
  void CompleteStep(const ScheduledBatch& batch);

  /// True once every choice is finished and no step in flight uses the group.
  bool IsReleased(const SequenceGroup& group) const;
  /// Forgets a released group and destroys it.
  void Remove(SequenceGroup* group);

  SchedulerCounts Counts() const;
  /// Frees every cached page that no sequence references; returns how many.
  int32_t FlushPrefixCache();

  /// All groups, in no particular order (deadlines, shutdown). One whose first_scheduled is
  /// InfiniteFuture is queued and has not run yet. Finish may be called while iterating;
  /// Remove moves the last group into the place of the removed one.
  const std::vector<std::unique_ptr<SequenceGroup>>& groups() const;

  /// Checks every invariant (pages, references, budget, states); empty if all hold, else
  /// the first that does not. For tests; costs O(pages + tokens).
  std::string CheckInvariants() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SCHEDULER_SCHEDULER_H_
