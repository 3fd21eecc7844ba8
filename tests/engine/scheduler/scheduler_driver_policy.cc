// What the driver knows of the scheduler's policy, checked around every call of Schedule.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "tests/engine/scheduler/scheduler_driver.h"

namespace parallax::testing {
namespace {

bool InBatch(const ScheduledBatch& batch, const Sequence* sequence) {
  return std::ranges::any_of(
      batch.sequences, [&](const ScheduledSequence& entry) { return entry.sequence == sequence; });
}

}  // namespace

void SchedulerDriver::LookBefore() {
  decodes_.clear();
  first_running_ = nullptr;
  for (const auto& group : scheduler_.groups()) {
    for (const auto& sequence : group->sequences) {
      if (sequence->state != SequenceState::kRunning) {
        continue;
      }
      if (!sequence->prefilling() && !sequence->exhausted()) {
        decodes_.push_back(sequence.get());
      }
      if (first_running_ == nullptr || RunsBefore(*sequence, *first_running_)) {
        first_running_ = sequence.get();
      }
    }
  }
}

bool SchedulerDriver::HasWork() const {
  const SchedulerCounts counts = scheduler_.Counts();
  return counts.groups_running + counts.groups_waiting > 0;
}

std::string SchedulerDriver::CheckScheduled(bool scheduled, const ScheduledBatch& batch) {
  std::string broken = CheckProgress(scheduled);
  if (broken.empty()) broken = CheckBudget(batch);
  if (broken.empty()) broken = CheckDecodes(batch);
  if (broken.empty()) broken = CheckAdmissions(batch);
  return broken;
}

std::string SchedulerDriver::CheckProgress(bool scheduled) const {
  if (!scheduled && in_flight() == 0 && HasWork()) {
    return "nothing is scheduled though there is work and no step in flight";
  }
  if (first_running_ != nullptr && first_running_->state == SequenceState::kWaiting) {
    return "the first sequence is preempted";
  }
  return "";
}

std::string SchedulerDriver::CheckBudget(const ScheduledBatch& batch) const {
  int32_t tokens = 0;
  bool prefills = false;
  for (const ScheduledSequence& entry : batch.sequences) {
    tokens += entry.num_tokens;
    if (entry.decode && prefills) {
      return "a decode comes after a prefill";
    }
    prefills = prefills || !entry.decode;
    const bool chunked = !entry.decode && options_.max_prefill_chunk > 0;
    if (chunked && entry.num_tokens > options_.max_prefill_chunk) {
      return "a chunk is too long";
    }
  }
  if (tokens > options_.max_num_batched_tokens ||
      tokens != batch.prefill_tokens + batch.decode_tokens) {
    return absl::StrFormat("%d tokens in a step of %d", tokens, options_.max_num_batched_tokens);
  }
  const int32_t mixed = options_.max_mixed_prefill_tokens;
  if (batch.decode_tokens > 0 && mixed > 0 && batch.prefill_tokens > mixed) {
    return absl::StrFormat("%d prompt tokens beside decodes, at most %d are allowed",
                           batch.prefill_tokens, mixed);
  }
  return "";
}

// Without a step in flight every decode runs unless it was preempted; with one it may wait
// for the pages which that step holds.
std::string SchedulerDriver::CheckDecodes(const ScheduledBatch& batch) {
  for (const Sequence* sequence : decodes_) {
    if (sequence->state != SequenceState::kRunning || InBatch(batch, sequence)) {
      continue;
    }
    ++counts_.sat_out;
    if (in_flight() == 0) {
      return "a running sequence is left out of a step";
    }
  }
  return "";
}

std::string SchedulerDriver::CheckAdmissions(const ScheduledBatch& batch) const {
  for (const Sequence* admitted : batch.attached) {
    for (const auto& group : scheduler_.groups()) {
      for (const auto& sequence : group->sequences) {
        if (sequence->queued && RunsBefore(*sequence, *admitted)) {
          return absl::StrFormat("%s overtakes %s", admitted->group->request.id, group->request.id);
        }
      }
    }
  }
  return "";
}

std::string SchedulerDriver::CheckEnd() const {
  const SchedulerCounts counts = scheduler_.Counts();
  if (!scheduler_.groups().empty() || ended_choices_ != added_choices_) {
    return "a request has not ended, or ended twice";
  }
  if (counts.pages_used != 0 || counts.groups_running != 0 || counts.groups_waiting != 0) {
    return absl::StrFormat("%d pages are leaked", counts.pages_used);
  }
  return scheduler_.CheckInvariants();
}

}  // namespace parallax::testing
