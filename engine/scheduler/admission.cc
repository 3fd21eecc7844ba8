// Waiting -> running: slots, prefix hit, pages, first chunk.
#include <algorithm>

#include "engine/kv_cache/invariant.h"
#include "engine/scheduler/scheduler_impl.h"

namespace parallax {
namespace {

// Admission leaves a page for each running sequence to grow into, up to this part of the
// pool: else what was just preempted comes back at once and is preempted again.
constexpr int32_t kGrowthDivisor = 32;

// Room for output that a sequence takes with its slot, so that its steps allocate nothing: more
// than anybody generates, and not what an absurd max_tokens asks for.
constexpr int32_t kReservedOutput = 1 << 17;

}  // namespace

// Strictly in order: the head that finds no room keeps everybody behind it waiting.
void Scheduler::Impl::AdmitWaiting(absl::Time now) {
  if (preempted_ || claimed_pages_ > 0) {
    return;
  }
  while (prefill_budget_ > 0) {
    Sequence* leader = waiting_.Front();
    if (leader == nullptr || !TryAdmit(now, leader)) {
      return;
    }
  }
}

bool Scheduler::Impl::TryAdmit(absl::Time now, Sequence* leader) {
  const SequenceGroup& group = *leader->group;
  const int32_t slots = group.forked ? 1 : group.num_unfinished;
  if (leader->steps_in_flight > 0 || static_cast<int32_t>(free_slots_.size()) < slots ||
      BlockedAsBefore(*leader)) {
    return false;
  }
  SequencePages::PrefixHit hit;
  if (!FindRoom(*leader, &hit)) {
    blocked_head_ = leader;
    blocked_available_ = pages_.allocator().num_available();
    return false;
  }
  const int32_t entries = ReservedEntries(*leader, hit);
  CountPrefixHit(now, *leader, hit.first_position);
  pages_.Begin(hit, leader);
  leader->prefill_end = static_cast<int32_t>(leader->known_tokens().size());
  pages_.Extend(std::min(entries * kPageTokens, leader->prefill_end), leader, &batch_->page_copies);
  waiting_.Remove(leader);
  AttachUnit(leader);
  Emit(NextChunk(*leader), /*decode=*/false, leader);
  return true;
}

// Matching a long prompt costs a hash a page: not again in every step that brings nothing.
bool Scheduler::Impl::BlockedAsBefore(const Sequence& leader) const {
  return &leader == blocked_head_ && !running_.empty() &&
         pages_.allocator().num_available() <= blocked_available_;
}

// Table entries to fill at admission: the whole prompt, or what a window and a chunk touch.
int32_t Scheduler::Impl::ReservedEntries(const Sequence& leader,
                                         const SequencePages::PrefixHit& hit) const {
  const int32_t all = PagesForTokens(static_cast<int32_t>(leader.known_tokens().size()));
  if (window_pages_ == 0) {
    return all;
  }
  const auto behind = std::ranges::count(hit.pages, kNoPage);
  return std::min(all, static_cast<int32_t>(behind) + window_pages_);
}

// A prompt that is cached as a whole needs a page more than it has, for the copy of its
// last one; where that one is missing, the last page is computed again instead.
bool Scheduler::Impl::FindRoom(const Sequence& leader, SequencePages::PrefixHit* hit) {
  const SequenceGroup& group = *leader.group;
  const bool unscored = group.wants_prompt_logprobs() && group.next_target < leader.num_prompt;
  const int32_t num_tokens = static_cast<int32_t>(leader.known_tokens().size());
  const int32_t growth =
      std::min(static_cast<int32_t>(running_.size()), options_.num_pages / kGrowthDivisor);
  const int32_t available = pages_.allocator().num_available() - growth;
  for (int32_t max_hit = unscored ? 0 : PagesForTokens(num_tokens);;) {
    *hit = pages_.Match(leader, max_hit);
    const int32_t hits = static_cast<int32_t>(hit->pages.size());
    const bool whole = hits * kPageTokens == num_tokens;
    const int32_t needed = ReservedEntries(leader, *hit) - hits + (whole ? 1 : 0);
    if (needed <= available - hit->unreferenced) {
      return true;
    }
    if (!whole) {
      return false;
    }
    max_hit = hits - 1;
  }
}

void Scheduler::Impl::CountPrefixHit(absl::Time now, const Sequence& leader, int32_t hit_tokens) {
  SequenceGroup* group = leader.group;
  if (group->first_scheduled != absl::InfiniteFuture()) {
    return;  // a recomputation: what it finds of its own pages says nothing of the cache
  }
  group->first_scheduled = now;
  group->cached_tokens = hit_tokens;
  if (options_.enable_prefix_cache && !group->wants_prompt_logprobs()) {
    batch_->prefix_query_tokens += leader.num_prompt;
    batch_->prefix_hit_tokens += hit_tokens;
  }
}

void Scheduler::Impl::AttachSlot(Sequence* sequence) {
  CheckInvariant(sequence->slot < 0 && !free_slots_.empty(), "slots were counted");
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  sequence->TakePrompt();
  const int32_t output = std::min(sequence->group->request.sampling.max_tokens, kReservedOutput);
  const int64_t tokens = int64_t{sequence->num_prompt} + output;
  sequence->tokens.reserve(static_cast<size_t>(tokens));
  sequence->block_table.Reserve(PagesForTokens(tokens));
  batch_->attached.push_back(sequence);
}

void Scheduler::Impl::AttachUnit(Sequence* leader) {
  AttachSlot(leader);
  JoinRunning(leader);
  if (leader->group->forked) {
    return;
  }
  for (const auto& choice : leader->group->sequences) {
    if (choice->state == SequenceState::kWaiting) {
      AttachSlot(choice.get());
      SetState(choice.get(), SequenceState::kForking);
    }
  }
}

}  // namespace parallax
