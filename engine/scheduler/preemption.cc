// Running -> waiting and finished: who gives up what, and when.
#include <algorithm>

#include "engine/kv_cache/invariant.h"
#include "engine/scheduler/scheduler_impl.h"

namespace parallax {
namespace {

bool Before(const Sequence* a, const Sequence* b) { return RunsBefore(*a, *b); }

}  // namespace

void Scheduler::Impl::Preempt(Sequence* sequence) {
  CheckInvariant(running_.size() > 1, "a request that was found to fit runs alone");
  LeaveRunning(sequence);
  SetState(sequence, SequenceState::kWaiting);
  ReleaseOrOwe(sequence);
  if (!sequence->group->forked) {
    StandDownFollowers(sequence->group);
  }
  waiting_.Insert(sequence);
  ++num_preemptions_;
  preempted_ = true;
}

void Scheduler::Impl::Finish(Sequence* sequence) {
  CheckInvariant(sequence->group->forked || sequence->group->sequences.size() == 1,
                 "a choice ends alone only once it goes its own way");
  End(sequence);
}

void Scheduler::Impl::FinishGroup(SequenceGroup* group) {
  for (const auto& choice : group->sequences) {
    if (choice->state != SequenceState::kFinished) {
      End(choice.get());
    }
  }
}

void Scheduler::Impl::FinishGroupUncached(SequenceGroup* group) {
  for (const auto& choice : group->sequences) {
    if (choice->state != SequenceState::kFinished) {
      pages_.Unpublish(choice.get());
    }
  }
  FinishGroup(group);
}

void Scheduler::Impl::End(Sequence* sequence) {
  if (sequence->state == SequenceState::kRunning) {
    LeaveRunning(sequence);
  } else if (sequence->queued) {
    waiting_.Remove(sequence);
  }
  const bool owes = sequence->state == SequenceState::kWaiting;
  SetState(sequence, SequenceState::kFinished);
  if (!owes) {
    ReleaseOrOwe(sequence);
  }
  num_unfinished_groups_ -= --sequence->group->num_unfinished == 0 ? 1 : 0;
  blocked_head_ = nullptr;
}

// Choices that waited for a first prefill that will not end now give up their slots.
void Scheduler::Impl::StandDownFollowers(SequenceGroup* group) {
  for (const auto& choice : group->sequences) {
    if (choice->state == SequenceState::kForking) {
      SetState(choice.get(), SequenceState::kWaiting);
      ReleaseResources(choice.get());
      choice->tokens = {};  // the prompt alone: taken again with the next slot
    }
  }
}

void Scheduler::Impl::JoinRunning(Sequence* sequence) {
  SetState(sequence, SequenceState::kRunning);
  running_.insert(std::ranges::upper_bound(running_, sequence, Before), sequence);
}

void Scheduler::Impl::LeaveRunning(Sequence* sequence) {
  const auto place = std::ranges::lower_bound(running_, sequence, Before);
  CheckInvariant(place != running_.end() && *place == sequence, "a running sequence is listed");
  running_.erase(place);
}

void Scheduler::Impl::SetState(Sequence* sequence, SequenceState next) {
  SequenceGroup* group = sequence->group;
  const bool was_running = group->num_running > 0;
  group->num_running -= sequence->state == SequenceState::kRunning ? 1 : 0;
  group->num_running += next == SequenceState::kRunning ? 1 : 0;
  num_running_groups_ += (group->num_running > 0 ? 1 : 0) - (was_running ? 1 : 0);
  sequence->TransitionTo(next);
}

void Scheduler::Impl::ReleaseOrOwe(Sequence* sequence) {
  if (sequence->steps_in_flight > 0) {
    pages_.Owe(sequence);
  } else {
    ReleaseResources(sequence);
  }
}

void Scheduler::Impl::ReleaseResources(Sequence* sequence) {
  pages_.Release(sequence);
  if (sequence->slot >= 0) {
    detached_slots_.push_back(sequence->slot);
    free_slots_.push_back(sequence->slot);
    sequence->slot = -1;
  }
}

}  // namespace parallax
