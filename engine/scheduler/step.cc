// What a step contains, and what its completion does.
#include <algorithm>

#include "engine/kv_cache/invariant.h"
#include "engine/scheduler/scheduler_impl.h"

namespace parallax {

bool Scheduler::Impl::Schedule(absl::Time now, ScheduledBatch* batch) {
  CheckInvariant(last_step_ - last_completed_ < static_cast<uint64_t>(options_.max_steps_in_flight),
                 "no more steps in flight than the backend takes");
  batch->Clear();
  batch_ = batch;
  prefills_.clear();
  claimed_pages_ = 0;
  preempted_ = false;
  prefill_budget_ = PrefillBudget(CountDecodes());
  ScheduleRunning();
  AdmitWaiting(now);
  OrderDecodes();
  batch->sequences.insert(batch->sequences.end(), prefills_.begin(), prefills_.end());
  EmitSamples();
  batch_ = nullptr;
  if (batch->sequences.empty()) {
    return false;
  }
  batch->step_id = ++last_step_;
  batch->preemptions = num_preemptions_;
  num_preemptions_ = 0;
  batch->detached_slots.swap(detached_slots_);
  return true;
}

int32_t Scheduler::Impl::CountDecodes() const {
  return static_cast<int32_t>(std::ranges::count_if(running_, [](const Sequence* sequence) {
    return !sequence->prefilling() && !sequence->exhausted();
  }));
}

int32_t Scheduler::Impl::PrefillBudget(int32_t decodes) const {
  const int32_t left = options_.max_num_batched_tokens - decodes;
  const int32_t limit = options_.max_mixed_prefill_tokens;
  return decodes > 0 && limit > 0 ? std::min(left, limit) : left;
}

int32_t Scheduler::Impl::NextChunk(const Sequence& sequence) const {
  return std::min({sequence.prefill_end - sequence.num_scheduled, prefill_budget_, max_chunk_});
}

// In policy order, so that a sequence takes pages before any that is worse. Preemption
// shortens running_ from its end, which the loop has not reached.
void Scheduler::Impl::ScheduleRunning() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    const bool decode = !sequence->prefilling();
    if (decode && sequence->exhausted()) {
      continue;
    }
    const int32_t num_tokens = decode ? 1 : NextChunk(*sequence);
    if (num_tokens > 0 && SecurePages(sequence->num_scheduled + num_tokens, sequence)) {
      Emit(num_tokens, decode, sequence);
    }
  }
}

// Pages come from the pool, else from what a step in flight will free, else from the worst
// running sequence. Its going may also end the sharing that asked for a copy. False if
// `sequence` sits this step out or was itself the victim.
bool Scheduler::Impl::SecurePages(int32_t end, Sequence* sequence) {
  while (const int32_t needed = pages_.PagesNeeded(*sequence, end)) {
    const int32_t supply = pages_.allocator().num_available() - claimed_pages_;
    if (needed <= supply) {
      pages_.Extend(end, sequence, &batch_->page_copies);
      break;
    }
    if (needed <= supply + PagesOwedByEarlierSteps() || MustSitOut(*sequence)) {
      claimed_pages_ += needed;
      return false;
    }
    Sequence* victim = running_.back();
    Preempt(victim);
    if (victim == sequence) {
      return false;
    }
  }
  return true;
}

// The sources of this step's own copies come back too late to wait for.
int32_t Scheduler::Impl::PagesOwedByEarlierSteps() const {
  return pages_.owed() - static_cast<int32_t>(batch_->page_copies.size());
}

// The worst sequence is not preempted for itself while its own steps may free what it needs
// (behind a sliding window), nor the only one while any step may (pages that two sequences
// shared are in nobody's count of owed pages).
bool Scheduler::Impl::MustSitOut(const Sequence& sequence) const {
  const bool step_in_flight = last_step_ > last_completed_;
  return running_.back() == &sequence &&
         (sequence.steps_in_flight > 0 || (running_.size() == 1 && step_in_flight));
}

void Scheduler::Impl::Emit(int32_t num_tokens, bool decode, Sequence* sequence) {
  ScheduledSequence entry{.sequence = sequence,
                          .first_position = sequence->num_scheduled,
                          .num_tokens = num_tokens,
                          .decode = decode};
  sequence->num_scheduled += num_tokens;
  ++sequence->steps_in_flight;
  entry.samples = sequence->num_scheduled == sequence->num_expected();
  if (decode) {
    ++batch_->decode_tokens;
    batch_->sequences.push_back(entry);
    return;
  }
  ScorePrompt(&entry);
  batch_->prefill_tokens += num_tokens;
  prefill_budget_ -= num_tokens;
  prefills_.push_back(entry);
}

// Longest context first: the order in which attention's kernels divide decodes best among their
// parts. All grow by one token a step, so that it changes only where sequences join or leave. Ties
// in policy order, as they were: std::stable_sort would allocate.
void Scheduler::Impl::OrderDecodes() {
  std::ranges::sort(batch_->sequences, [](const ScheduledSequence& a, const ScheduledSequence& b) {
    if (a.first_position != b.first_position) {
      return a.first_position > b.first_position;
    }
    return RunsBefore(*a.sequence, *b.sequence);
  });
}

void Scheduler::Impl::ScorePrompt(ScheduledSequence* entry) const {
  SequenceGroup* group = entry->sequence->group;
  if (!group->wants_prompt_logprobs()) {
    return;
  }
  const int32_t first = std::max(group->next_target, entry->first_position + 1);
  const int32_t end =
      std::min(entry->first_position + entry->num_tokens + 1, entry->sequence->num_prompt);
  if (first < end) {
    entry->first_target = first;
    entry->num_targets = end - first;
    group->next_target = end;
  }
}

// After everything else: a fork adds to running_, which must not be scheduled again.
void Scheduler::Impl::EmitSamples() {
  for (const ScheduledSequence& entry : batch_->sequences) {
    if (!entry.samples) {
      continue;
    }
    Sequence* sequence = entry.sequence;
    batch_->samples.push_back(
        {.sequence = sequence, .output_position = sequence->num_generated() + sequence->pending});
    ++sequence->pending;
    if (!sequence->group->forked) {
      Fork(*sequence);
    }
  }
}

void Scheduler::Impl::Fork(const Sequence& leader) {
  SequenceGroup* group = leader.group;
  group->forked = true;
  for (const auto& choice : group->sequences) {
    if (choice->state != SequenceState::kForking) {
      continue;
    }
    pages_.Share(leader, choice.get());
    JoinRunning(choice.get());
    ++choice->pending;
    ++choice->steps_in_flight;
    batch_->samples.push_back({.sequence = choice.get(), .output_position = 0, .forked = true});
  }
}

void Scheduler::Impl::CompleteStep(const ScheduledBatch& batch) {
  CheckInvariant(batch.step_id == last_completed_ + 1, "steps are completed in order");
  last_completed_ = batch.step_id;
  for (const ScheduledSequence& entry : batch.sequences) {
    Advance(entry.first_position + entry.num_tokens, entry.sequence);
  }
  for (const ScheduledSample& sample : batch.samples) {
    if (sample.forked) {
      Advance(sample.sequence->num_prompt, sample.sequence);
    }
  }
  pages_.ReleaseCopySources(batch.page_copies);
}

// A sequence that is no longer running publishes too: what the step wrote is good, and a
// preempted sequence may find it again. Only tokens that were dropped are not known.
void Scheduler::Impl::Advance(int32_t end, Sequence* sequence) {
  --sequence->steps_in_flight;
  sequence->num_computed = end;
  pages_.Advance(std::min(end, static_cast<int32_t>(sequence->tokens.size())), sequence);
  if (sequence->steps_in_flight == 0 && sequence->state != SequenceState::kRunning) {
    ReleaseResources(sequence);
  }
}

}  // namespace parallax
