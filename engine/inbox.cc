#include "engine/inbox.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/steady_time.h"
#include "engine/retry_after.h"

namespace parallax {
namespace {

// A full queue is worth another try once about this part of it has drained.
constexpr double kRetryQueuePart = 0.1;
constexpr absl::Duration kMinRetryAfter = absl::Milliseconds(50);
constexpr absl::Duration kMaxRetryAfter = absl::Seconds(10);

// Far enough to mean never, near enough for a steady clock's nanoseconds.
constexpr absl::Duration kLongestWait = absl::Hours(24 * 365);

std::chrono::steady_clock::time_point ToSteady(absl::Time deadline) {
  return std::chrono::steady_clock::now() +
         absl::ToChronoNanoseconds(
             std::min(SteadyFromSystem(deadline) - SteadyNow(), kLongestWait));
}

}  // namespace

void Inbox::Messages::Clear() {
  submitted.clear();
  cancelled.clear();
  flushes.clear();
  stop = false;
}

Inbox::Inbox(int32_t max_queued_requests, int64_t max_queued_tokens)
    : max_queued_requests_(max_queued_requests), max_queued_tokens_(max_queued_tokens) {}

absl::Status Inbox::Submit(std::unique_ptr<LiveRequest> request) {
  MutexLock lock(&mutex_);
  const int64_t tokens = request->prompt_tokens;
  if (absl::Status s = CheckAcceptsLocked(request->id, tokens); !s.ok()) return s;
  LiveRequest* const live = request.get();
  if (counts_.live == 0) counts_.busy_since = live->submitted;
  registry_.emplace(live->id, Entry{.request = std::move(request)});
  pending_.submitted.push_back(live);
  ++counts_.submitted;
  ++counts_.live;
  ++counts_.queued;
  counts_.queued_tokens += tokens;
  message_.NotifyOne();
  return absl::OkStatus();
}

absl::Status Inbox::CheckAccepts(const std::string& id, int64_t prompt_tokens) const {
  MutexLock lock(&mutex_);
  return CheckAcceptsLocked(id, prompt_tokens);
}

absl::Status Inbox::CheckAcceptsLocked(const std::string& id, int64_t prompt_tokens) const {
  if (!refusal_.ok()) return refusal_;
  if (counts_.draining) {
    return absl::UnavailableError("the engine is draining: it finishes what it has");
  }
  if (registry_.contains(id)) {
    return absl::AlreadyExistsError(absl::StrCat("request_id: \"", id, "\" is already live"));
  }
  return HasRoom(prompt_tokens) ? absl::OkStatus() : QueueFull();
}

bool Inbox::HasRoom(int64_t prompt_tokens) const {
  if (counts_.queued >= max_queued_requests_) return false;
  return max_queued_tokens_ == 0 || counts_.queued == 0 ||
         counts_.queued_tokens + prompt_tokens <= max_queued_tokens_;
}

absl::Status Inbox::QueueFull() const {
  const absl::Duration delay = std::clamp(leave_interval_ * (kRetryQueuePart * counts_.queued),
                                          kMinRetryAfter, kMaxRetryAfter);
  absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
      "the queue is full: ", counts_.queued, " requests of ", counts_.queued_tokens,
      " prompt tokens wait; retry in about ", absl::ToInt64Milliseconds(delay), " ms"));
  SetRetryAfter(delay, &status);
  return status;
}

Inbox::Entry* Inbox::Find(std::string_view id) {
  const auto it = registry_.find(absl::string_view(id.data(), id.size()));
  return it == registry_.end() ? nullptr : &it->second;
}

bool Inbox::Cancel(std::string_view id, const TokenSink* sink, absl::Status status) {
  MutexLock lock(&mutex_);
  Entry* const entry = Find(id);
  if (entry == nullptr || entry->request->sink.get() != sink) return false;
  Enqueue(entry, std::move(status));
  return true;
}

bool Inbox::Abort(std::string_view id, std::string_view principal, absl::Status status) {
  MutexLock lock(&mutex_);
  Entry* const entry = Find(id);
  if (entry == nullptr || entry->request->principal != principal) return false;
  Enqueue(entry, std::move(status));
  return true;
}

void Inbox::CancelAll(const absl::Status& status) {
  MutexLock lock(&mutex_);
  for (auto& [id, entry] : registry_) Enqueue(&entry, status);
}

void Inbox::Enqueue(Entry* entry, absl::Status status) {
  if (std::exchange(entry->cancelled, true)) return;
  pending_.cancelled.push_back({entry->request.get(), std::move(status)});
  message_.NotifyOne();
}

void Inbox::BeginDrain() {
  MutexLock lock(&mutex_);
  counts_.draining = true;
}

bool Inbox::AwaitEmpty(absl::Time deadline) {
  const auto until = ToSteady(deadline);
  MutexLock lock(&mutex_);
  while (counts_.live > 0) {
    if (!ended_.WaitUntil(&mutex_, until)) return counts_.live == 0;
  }
  return true;
}

int32_t Inbox::FlushPrefixCache() {
  Flush flush;
  MutexLock lock(&mutex_);
  pending_.flushes.push_back(&flush);
  message_.NotifyOne();
  while (!flush.done) flushed_.Wait(&mutex_);
  return flush.pages_freed;
}

void Inbox::Stop() {
  MutexLock lock(&mutex_);
  pending_.stop = true;
  message_.NotifyOne();
}

Inbox::Counts Inbox::GetCounts() const {
  MutexLock lock(&mutex_);
  return counts_;
}

void Inbox::Take(bool wait, Messages* messages) {
  messages->Clear();
  MutexLock lock(&mutex_);
  while (wait && pending_.submitted.empty() && pending_.cancelled.empty() &&
         pending_.flushes.empty() && !pending_.stop) {
    message_.Wait(&mutex_);
  }
  std::swap(pending_, *messages);
}

void Inbox::LeaveQueue(LiveRequest* request, absl::Time now) {
  constexpr double kNewest = 0.1;
  MutexLock lock(&mutex_);
  if (last_leave_ != absl::InfinitePast()) {
    leave_interval_ += (now - last_leave_ - leave_interval_) * kNewest;
  }
  last_leave_ = now;
  Leave(request);
}

void Inbox::Leave(LiveRequest* request) {
  request->queued = false;
  counts_.queued_tokens -= request->prompt_tokens;
  if (--counts_.queued == 0) last_leave_ = absl::InfinitePast();
}

std::unique_ptr<LiveRequest> Inbox::Unregister(LiveRequest* request) {
  MutexLock lock(&mutex_);
  auto node = registry_.extract(request->id);
  if (node.mapped().cancelled) {
    std::erase_if(pending_.cancelled, [&](const Cancellation& c) { return c.request == request; });
  }
  if (request->queued) Leave(request);
  return std::move(node.mapped().request);
}

void Inbox::NoteEnded() {
  MutexLock lock(&mutex_);
  if (--counts_.live == 0) ended_.NotifyAll();
}

void Inbox::AnswerFlush(Flush* flush, int32_t pages_freed) {
  MutexLock lock(&mutex_);
  flush->pages_freed = pages_freed;
  flush->done = true;
  flushed_.NotifyAll();
}

void Inbox::Refuse(absl::Status reason) {
  MutexLock lock(&mutex_);
  refusal_ = std::move(reason);
}

}  // namespace parallax
