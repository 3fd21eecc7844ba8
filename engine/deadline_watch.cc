#include "engine/deadline_watch.h"

#include <algorithm>

namespace parallax {
namespace {

// The first steps of a process are slow; the fastest of this many is worth believing.
constexpr int32_t kEnoughChunks = 8;
// Each drop lowers the bound a little, so that one measured while the machine was busy does
// not turn requests away for good; each measurement after it that finds none faster raises it
// again.
constexpr double kDoubt = 0.9;

}  // namespace

DeadlineWatch::DeadlineWatch(int32_t max_chunk, bool prefix_cache)
    : max_chunk_(max_chunk), prefix_cache_(prefix_cache) {}

void DeadlineWatch::Add(LiveRequest* request) {
  const Request& terms = request->group->request;
  request->timeout_at = request->submitted + terms.timeout;
  if (request->timeout_at != absl::InfiniteFuture()) {
    entries_.emplace(request->timeout_at, request, Kind::kTimeout);
  }
  if (terms.deadline == absl::InfiniteFuture()) return;
  entries_.emplace(terms.deadline, request, Kind::kDeadline);
  WatchHopeless(request);
}

void DeadlineWatch::Remove(LiveRequest* request) {
  if (entries_.empty()) return;
  entries_.erase({request->timeout_at, request, Kind::kTimeout});
  entries_.erase({request->group->request.deadline, request, Kind::kDeadline});
  entries_.erase({request->hopeless_at, request, Kind::kHopeless});
}

void DeadlineWatch::NoteStep(int32_t rows, absl::Duration duration) {
  if (rows > max_chunk_ || rows < (max_chunk_ + 1) / 2) return;
  chunks_seen_ = std::min(chunks_seen_ + 1, kEnoughChunks);
  fastest_chunk_ = std::min(fastest_chunk_, duration);
  trust_ = std::min(trust_ / kDoubt, 1.0);
}

std::optional<DeadlineWatch::Expiry> DeadlineWatch::Next(absl::Time now) {
  while (!entries_.empty()) {
    const auto [time, request, kind] = *entries_.begin();
    if (time > now) break;
    entries_.erase(entries_.begin());
    if (kind != Kind::kHopeless) return Expiry{request, kind};
    if (!request->queued) continue;
    // The bound may have fallen since the moment was computed.
    if (now + ShortestPrefill(request->group->request) >= request->group->request.deadline) {
      trust_ *= kDoubt;
      return Expiry{request, kind};
    }
    WatchHopeless(request);
  }
  return std::nullopt;
}

absl::Duration DeadlineWatch::ShortestPrefill(const Request& request) const {
  const bool takes_hits = prefix_cache_ && !request.sampling.prompt_logprobs.has_value();
  if (takes_hits || chunks_seen_ < kEnoughChunks) return absl::ZeroDuration();
  return fastest_chunk_ * trust_ * (static_cast<int64_t>(request.prompt.size()) / max_chunk_);
}

void DeadlineWatch::WatchHopeless(LiveRequest* request) {
  const Request& terms = request->group->request;
  const absl::Duration prefill = ShortestPrefill(terms);
  if (prefill == absl::ZeroDuration()) return;
  request->hopeless_at = terms.deadline - prefill;
  entries_.emplace(request->hopeless_at, request, Kind::kHopeless);
}

}  // namespace parallax
