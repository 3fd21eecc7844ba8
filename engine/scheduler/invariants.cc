// CheckInvariants: every promise that the scheduler's structures make to each other.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/scheduler/scheduler_impl.h"

namespace parallax {
namespace {

std::string Describe(const Sequence& sequence, const char* what) {
  return absl::StrFormat("request %s choice %d: %s", sequence.group->request.id, sequence.choice,
                         what);
}

}  // namespace

std::string Scheduler::Impl::CheckInvariants() const {
  std::string broken = pages_.allocator().CheckInvariants();
  if (broken.empty()) broken = pages_.cache().CheckInvariants();
  if (broken.empty()) broken = CheckPages();
  if (broken.empty()) broken = CheckSlots();
  if (broken.empty()) broken = CheckQueues();
  for (size_t i = 0; broken.empty() && i < groups_.size(); ++i) {
    broken = groups_[i]->index == i ? CheckGroup(*groups_[i]) : "a group's index is wrong";
  }
  return broken;
}

// References = block-table entries + sources of copies in flight, page by page.
std::string Scheduler::Impl::CheckPages() const {
  const BlockAllocator& allocator = pages_.allocator();
  std::vector<int32_t> references(static_cast<size_t>(allocator.num_pages()));
  int32_t owed = 0;
  for (int32_t page = 0; page < allocator.num_pages(); ++page) {
    references[page] = pages_.copy_holds(page);
    owed += pages_.copy_holds(page);
  }
  for (const auto& group : groups_) {
    for (const auto& sequence : group->sequences) {
      owed += sequence->pages_owed;
      for (const int32_t page : sequence->block_table.live_pages()) {
        ++references[page];
      }
    }
  }
  for (int32_t page = 0; page < allocator.num_pages(); ++page) {
    if (references[page] != allocator.references(page)) {
      return absl::StrFormat("page %d: %d references counted, %d held", page,
                             allocator.references(page), references[page]);
    }
  }
  return owed == pages_.owed() ? "" : "count of owed pages is wrong";
}

std::string Scheduler::Impl::CheckSlots() const {
  std::vector<int32_t> owners(static_cast<size_t>(options_.max_num_seqs));
  for (const int32_t slot : free_slots_) {
    ++owners[slot];
  }
  for (const auto& group : groups_) {
    for (const auto& sequence : group->sequences) {
      if (sequence->slot >= 0) {
        ++owners[sequence->slot];
      }
    }
  }
  const bool unique = std::ranges::all_of(owners, [](int32_t count) { return count == 1; });
  return unique ? "" : "a slot is lost or has two owners";
}

std::string Scheduler::Impl::CheckQueues() const {
  for (size_t i = 1; i < running_.size(); ++i) {
    if (!RunsBefore(*running_[i - 1], *running_[i])) {
      return Describe(*running_[i], "runs out of order");
    }
  }
  int32_t running = 0, queued = 0, unfinished = 0, running_groups = 0;
  for (const auto& group : groups_) {
    unfinished += group->num_unfinished > 0 ? 1 : 0;
    running_groups += group->num_running > 0 ? 1 : 0;
    running += group->num_running;
    for (const auto& sequence : group->sequences) {
      queued += sequence->queued ? 1 : 0;
    }
  }
  if (running != static_cast<int32_t>(running_.size())) return "count of running is wrong";
  if (queued != waiting_.size()) return "count of queued is wrong";
  if (unfinished != num_unfinished_groups_) return "count of unfinished groups is wrong";
  if (running_groups != num_running_groups_) return "count of running groups is wrong";
  return "";
}

std::string Scheduler::Impl::CheckGroup(const SequenceGroup& group) const {
  int32_t leaders = 0, unfinished = 0, running = 0;
  for (const auto& sequence : group.sequences) {
    const bool runs = sequence->state == SequenceState::kRunning;
    running += runs ? 1 : 0;
    unfinished += sequence->state != SequenceState::kFinished ? 1 : 0;
    leaders += runs || sequence->queued ? 1 : 0;
    if (std::string broken = CheckSequence(*sequence); !broken.empty()) {
      return broken;
    }
  }
  if (unfinished != group.num_unfinished) return "a group miscounts its unfinished choices";
  if (running != group.num_running) return "a group miscounts its running choices";
  const int32_t expected = group.forked ? unfinished : std::min(unfinished, 1);
  return leaders == expected ? "" : "a live choice neither runs, waits nor follows a leader";
}

std::string Scheduler::Impl::CheckSequence(const Sequence& s) const {
  const bool runs = s.state == SequenceState::kRunning;
  const bool in_flight = s.steps_in_flight > 0;
  if (s.steps_in_flight > options_.max_steps_in_flight) return Describe(s, "too many steps");
  if (s.tokens.empty() && s.slot >= 0) return Describe(s, "has no tokens");
  if (!s.tokens.empty() && s.state == SequenceState::kWaiting && !s.queued) {
    return Describe(s, "follows a waiting leader with tokens of its own");
  }
  if (s.queued && s.state != SequenceState::kWaiting) return Describe(s, "queued, not waiting");
  if (!runs && !in_flight && s.block_table.size() > 0) return Describe(s, "keeps pages");
  if ((s.slot >= 0) != (runs || in_flight || s.state == SequenceState::kForking)) {
    return Describe(s, "slot does not fit its state");
  }
  if (s.num_computed > s.num_scheduled) return Describe(s, "computed more than scheduled");
  if (s.state != SequenceState::kFinished && s.num_scheduled > s.num_expected()) {
    return Describe(s, "scheduled tokens that will not exist");
  }
  if (s.num_generated() + (runs ? s.pending : 0) > s.group->request.sampling.max_tokens) {
    return Describe(s, "more tokens than max_tokens");
  }
  if (runs && s.block_table.size() < PagesForTokens(s.num_scheduled)) {
    return Describe(s, "pages do not cover what is scheduled");
  }
  if (s.pending < 0 || (!in_flight && s.pending > 0 && s.state != SequenceState::kFinished)) {
    return Describe(s, "waits for a token that no step brings");
  }
  return "";
}

}  // namespace parallax
