#include "engine/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/kv_cache/invariant.h"
#include "engine/scheduler/scheduler_impl.h"

namespace parallax {
namespace {

// A chunk's first token sees window - 1 tokens before it; the span may begin and end inside
// a page.
int32_t WindowPages(const SchedulerOptions& options) {
  if (options.sliding_window == 0) {
    return 0;
  }
  return PagesForTokens(int64_t{options.sliding_window} - 1 + options.MaxChunk()) + 1;
}

std::string PrefixRoot(const Request& request, uint64_t weights_version) {
  return absl::StrFormat("%d/%d/%s", weights_version, request.adapter_id, request.tenant);
}

}  // namespace

Scheduler::Impl::Impl(const SchedulerOptions& options)
    : options_(options),
      max_chunk_(options.MaxChunk()),
      window_pages_(WindowPages(options)),
      pages_(options.num_pages, options.sliding_window, options.enable_prefix_cache,
             options.prefix_cache_observer) {
  CheckInvariant(options.max_num_batched_tokens >= options.max_num_seqs,
                 "every running sequence's token fits in a step");
  const size_t slots = static_cast<size_t>(options.max_num_seqs);
  running_.reserve(slots);
  prefills_.reserve(slots);
  detached_slots_.reserve(slots);
  for (int32_t slot = options.max_num_seqs - 1; slot >= 0; --slot) {
    free_slots_.push_back(slot);
  }
}

absl::Status Scheduler::Impl::CheckFits(const Request& request) const {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t total = prompt + request.sampling.max_tokens;
  if (prompt == 0) {
    return absl::InvalidArgumentError("prompt: empty, but at least one token is needed");
  }
  if (total > options_.max_context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "max_tokens: %d prompt tokens and max_tokens %d exceed the context of %d tokens", prompt,
        request.sampling.max_tokens, options_.max_context_tokens));
  }
  if (request.sampling.n > options_.max_num_seqs) {
    return absl::InvalidArgumentError(absl::StrFormat("n: %d choices, but at most %d run at once",
                                                      request.sampling.n, options_.max_num_seqs));
  }
  int32_t pages = PagesForTokens(total - 1);  // the last is never written
  if (window_pages_ > 0) {
    pages = std::min(pages, window_pages_);
  }
  if (pages > options_.num_pages) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "max_tokens: %d prompt tokens and max_tokens %d take %d KV pages of %d tokens, but there "
        "are %d",
        prompt, request.sampling.max_tokens, pages, kPageTokens, options_.num_pages));
  }
  return absl::OkStatus();
}

SequenceGroup* Scheduler::Impl::Add(Request request, uint64_t arrival) {
  auto group = std::make_unique<SequenceGroup>();
  group->request = std::move(request);
  group->arrival = arrival;
  group->prefix_root = PrefixRoot(group->request, options_.weights_version);
  group->index = groups_.size();
  group->num_unfinished = group->request.sampling.n;
  for (int32_t choice = 0; choice < group->request.sampling.n; ++choice) {
    auto sequence = std::make_unique<Sequence>();
    sequence->group = group.get();
    sequence->choice = choice;
    sequence->num_prompt = static_cast<int32_t>(group->request.prompt.size());
    group->sequences.push_back(std::move(sequence));
  }
  waiting_.Insert(group->sequences.front().get());
  ++num_unfinished_groups_;
  groups_.push_back(std::move(group));
  return groups_.back().get();
}

void Scheduler::Impl::Remove(SequenceGroup* group) {
  const size_t index = group->index;
  CheckInvariant(index < groups_.size() && groups_[index].get() == group,
                 "a group is removed once");
  std::swap(groups_[index], groups_.back());
  groups_[index]->index = index;
  groups_.pop_back();
}

SchedulerCounts Scheduler::Impl::Counts() const {
  const BlockAllocator& allocator = pages_.allocator();
  return {.groups_running = num_running_groups_,
          .groups_waiting = num_unfinished_groups_ - num_running_groups_,
          .pages_total = allocator.num_pages(),
          .pages_used = allocator.num_used(),
          .pages_cached = allocator.num_cached()};
}

Scheduler::Scheduler(const SchedulerOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Scheduler::~Scheduler() = default;

absl::Status Scheduler::CheckFits(const Request& request) const {
  return impl_->CheckFits(request);
}

SequenceGroup* Scheduler::Add(Request request, uint64_t arrival) {
  return impl_->Add(std::move(request), arrival);
}

bool Scheduler::Schedule(absl::Time now, ScheduledBatch* batch) {
  return impl_->Schedule(now, batch);
}

void Scheduler::AppendToken(Sequence* sequence, int32_t token) {
  CheckInvariant(sequence->state != SequenceState::kFinished && sequence->pending > 0,
                 "a token is appended only to a live sequence that waits for one");
  sequence->tokens.push_back(token);
  --sequence->pending;
}

void Scheduler::Finish(Sequence* sequence) { impl_->Finish(sequence); }
void Scheduler::FinishGroup(SequenceGroup* group) { impl_->FinishGroup(group); }
void Scheduler::FinishGroupUncached(SequenceGroup* group) { impl_->FinishGroupUncached(group); }
void Scheduler::CompleteStep(const ScheduledBatch& batch) { impl_->CompleteStep(batch); }

bool Scheduler::IsReleased(const SequenceGroup& group) const {
  return group.num_unfinished == 0 &&
         std::ranges::all_of(group.sequences, [](const std::unique_ptr<Sequence>& sequence) {
           return sequence->steps_in_flight == 0;
         });
}

void Scheduler::Remove(SequenceGroup* group) {
  CheckInvariant(IsReleased(*group), "only a released group is removed");
  impl_->Remove(group);
}

SchedulerCounts Scheduler::Counts() const { return impl_->Counts(); }
int32_t Scheduler::FlushPrefixCache() { return impl_->FlushPrefixCache(); }

const std::vector<std::unique_ptr<SequenceGroup>>& Scheduler::groups() const {
  return impl_->groups();
}

std::string Scheduler::CheckInvariants() const { return impl_->CheckInvariants(); }

}  // namespace parallax
