#include "engine/engine_loop.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/steady_time.h"

namespace parallax {
namespace {

FinishReason ReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnavailable:
      return FinishReason::kCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return FinishReason::kDeadline;
    default:
      return FinishReason::kError;
  }
}

}  // namespace

EngineLoop::EngineLoop(const SchedulerOptions& options, std::vector<int32_t> eos_token_ids,
                       Scheduler* scheduler, ModelRunner* runner, Inbox* inbox, StatsBoard* board,
                       EngineObserver* observer)
    : scheduler_(scheduler),
      runner_(runner),
      inbox_(inbox),
      board_(board),
      observer_(observer),
      deadlines_(options.MaxChunk(), options.enable_prefix_cache),
      output_(std::move(eos_token_ids), scheduler, observer),
      pipeline_(scheduler, runner) {
  stats_.gauges.probe_state_bytes_total = runner->limits().probe_state_bytes;
  stats_.last_progress = SteadyNow();
  Publish();
}

void EngineLoop::Run() {
  while (true) {
    inbox_->Take(/*wait=*/stats_.idle, &messages_);
    HandleMessages();
    CheckDeadlines();
    if (!output_.ended().empty()) Deliver();
    LaunchSteps();
    stats_.idle = pipeline_.empty();
    if (stats_.idle) {
      stats_.last_progress = SteadyNow();
    } else {
      CollectStep();
    }
    Deliver();
    if (stats_.idle && stopping_) return;
  }
}

void EngineLoop::HandleMessages() {
  for (LiveRequest* live : messages_.submitted) TakeIn(live);
  for (Inbox::Cancellation& c : messages_.cancelled) {
    const FinishReason reason = ReasonOf(c.status);
    output_.End(c.request, reason, std::move(c.status), SteadyNow());
  }
  FlushPrefixCache();
  if (!messages_.stop) return;
  stopping_ = true;
  const absl::Status shutdown = absl::UnavailableError("the engine is shutting down");
  EndAll(shutdown, shutdown);
}

void EngineLoop::FlushPrefixCache() {
  if (messages_.flushes.empty()) return;
  // All who ask at once share one flush: the first is told of the pages, the others of none.
  int32_t pages_freed = scheduler_->FlushPrefixCache();
  Publish();  // first, so that the counters read after the answer agree with it
  for (Inbox::Flush* flush : messages_.flushes) {
    inbox_->AnswerFlush(flush, std::exchange(pages_freed, 0));
  }
}

void EngineLoop::TakeIn(LiveRequest* live) {
  live->group = scheduler_->Add(std::move(live->request), ++arrivals_);
  live->group->owner = live;
  for (size_t i = 0; i < live->choices.size(); ++i) {
    live->choices[i].sequence = live->group->sequences[i].get();
  }
  const auto prompt_tokens = static_cast<int32_t>(live->group->request.prompt.size());
  stats_.prompt_tokens += prompt_tokens;
  observer_->OnSubmitted(prompt_tokens);
  deadlines_.Add(live);
  if (stats_.health.ok()) return;
  // Accepted a moment before the backend broke.
  output_.End(live, FinishReason::kError, absl::UnavailableError("the backend failed"),
              SteadyNow());
}

void EngineLoop::EndAll(absl::Status scheduled_status, absl::Status queued_status) {
  const absl::Time now = SteadyNow();
  for (const std::unique_ptr<SequenceGroup>& group : scheduler_->groups()) {
    auto* const live = static_cast<LiveRequest*>(group->owner);
    if (live == nullptr) continue;
    const absl::Status& status = live->queued ? queued_status : scheduled_status;
    output_.End(live, ReasonOf(status), status, now);
  }
}

void EngineLoop::CheckDeadlines() {
  const absl::Time now = SteadyNow();
  while (const auto expiry = deadlines_.Next(now)) {
    LiveRequest* const live = expiry->request;
    absl::Status status;
    if (expiry->kind == DeadlineWatch::Kind::kDeadline) {
      status = absl::DeadlineExceededError(live->queued ? "the deadline passed in the queue"
                                                        : "the deadline passed");
    } else if (expiry->kind == DeadlineWatch::Kind::kHopeless) {
      status = absl::DeadlineExceededError("the deadline cannot be met: dropped from the queue");
    }
    output_.End(live, FinishReason::kDeadline, std::move(status), now);
  }
}

void EngineLoop::LaunchSteps() {
  while (stats_.health.ok() && !pipeline_.full()) {
    const ScheduledBatch* const batch = pipeline_.Schedule(SteadyNow());
    if (batch == nullptr) return;
    NoteAdmissions(*batch);
    if (absl::Status s = pipeline_.Launch(); !s.ok()) return Break(s);
  }
}

// Before the launch, which on the CPU lasts as long as the step: whoever looks meanwhile sees
// its requests running, and their places in the queue are free.
void EngineLoop::NoteAdmissions(const ScheduledBatch& batch) {
  if (batch.attached.empty()) return;
  const absl::Time now = SteadyNow();
  for (const Sequence* sequence : batch.attached) {
    auto* const live = static_cast<LiveRequest*>(sequence->group->owner);
    if (live->queued) inbox_->LeaveQueue(live, now);
  }
  Publish();
}

void EngineLoop::CollectStep() {
  const absl::StatusOr<const StepResult*> result = pipeline_.Collect();
  if (!result.ok() && !pipeline_.refused()) return Break(result.status());
  const absl::Time now = SteadyNow();
  const ScheduledBatch& batch = pipeline_.oldest();
  const int32_t rows = batch.prefill_tokens + batch.decode_tokens;
  // With two steps in flight the later one's time starts when the device gets to it.
  const absl::Duration duration = now - std::max(pipeline_.oldest_launched(), last_collected_);
  if (result.ok()) deadlines_.NoteStep(rows, duration);
  last_collected_ = now;
  const StepStats step{.duration = duration,
                       .num_sequences = static_cast<int32_t>(batch.sequences.size()),
                       .prefill_tokens = batch.prefill_tokens,
                       .decode_tokens = batch.decode_tokens,
                       .tokens_generated = result.ok()
                                               ? output_.Process(batch, **result, now)
                                               : output_.Refuse(batch, result.status(), now),
                       .preemptions = batch.preemptions,
                       .prefix_cache_query_tokens = batch.prefix_query_tokens,
                       .prefix_cache_hit_tokens = batch.prefix_hit_tokens};
  pipeline_.CompleteOldest();
  CountStep(step);
}

void EngineLoop::CountStep(const StepStats& step) {
  ++stats_.steps;
  stats_.last_progress = last_collected_;
  stats_.tokens_generated += step.tokens_generated;
  stats_.preemptions += step.preemptions;
  stats_.prefix_cache_query_tokens += step.prefix_cache_query_tokens;
  stats_.prefix_cache_hit_tokens += step.prefix_cache_hit_tokens;
  observer_->OnStep(step);
}

// The backend is gone: whoever it ran for gets INTERNAL, whoever waited may try elsewhere.
void EngineLoop::Break(const absl::Status& status) {
  const std::string why = absl::StrCat("the backend failed: ", absl::string_view(status.message()));
  stats_.health = absl::InternalError(why);
  inbox_->Refuse(absl::UnavailableError(why));
  EndAll(stats_.health, absl::UnavailableError(why));
  while (!pipeline_.empty()) pipeline_.CompleteOldest();
}

// Counters first, then OnDone: a client that has its answer finds itself counted.
void EngineLoop::Deliver() {
  std::vector<LiveRequest*>& ended = output_.ended();
  const absl::Time now = SteadyNow();
  for (LiveRequest* live : ended) {
    CountFinished(*live, now);
    deadlines_.Remove(live);
    live->group->owner = nullptr;
    releasing_.push_back(live->group);
  }
  RemoveReleasedGroups();
  Publish();
  for (LiveRequest* live : ended) {
    std::unique_ptr<LiveRequest> owned = inbox_->Unregister(live);
    owned->sink->OnDone(std::move(owned->status));
    owned.reset();
    inbox_->NoteEnded();
  }
  ended.clear();
}

void EngineLoop::CountFinished(const LiveRequest& live, absl::Time now) {
  ++stats_.requests_finished;
  observer_->OnFinished(live.Summary(now));
}

void EngineLoop::RemoveReleasedGroups() {
  std::erase_if(releasing_, [this](SequenceGroup* group) {
    if (!scheduler_->IsReleased(*group)) return false;
    scheduler_->Remove(group);
    return true;
  });
}

void EngineLoop::Publish() {
  const SchedulerCounts counts = scheduler_->Counts();
  EngineGauges& gauges = stats_.gauges;
  gauges.requests_running = counts.groups_running;
  gauges.requests_waiting = counts.groups_waiting;
  gauges.pages_total = counts.pages_total;
  gauges.pages_used = counts.pages_used;
  gauges.pages_cached = counts.pages_cached;
  gauges.probe_state_bytes_used = stats_.idle ? 0 : runner_->probe_state_bytes_used();
  gauges.device = runner_->device_stats();
  observer_->OnGauges(gauges);
  board_->Publish(stats_);
}

}  // namespace parallax
