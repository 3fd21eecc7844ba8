#include "server/vllm/kv_event_log.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace parallax::server {
namespace {

namespace wire = ::smg::grpc::common;

int64_t BlockHash(const Hash128& hash) { return static_cast<int64_t>(hash.low); }

}  // namespace

KvEventLog::KvEventLog(size_t capacity) : ring_(capacity) {}

void KvEventLog::OnStored(const PrefixLink& parent, const Hash128& hash,
                          std::span<const int32_t> tokens) {
  Append(Kind::kStored, &parent, hash, tokens);
}
void KvEventLog::OnRemoved(const Hash128& hash) { Append(Kind::kRemoved, nullptr, hash, {}); }
void KvEventLog::OnCleared() { Append(Kind::kCleared, nullptr, Hash128(), {}); }

void KvEventLog::Append(Kind kind, const PrefixLink* parent, const Hash128& hash,
                        std::span<const int32_t> tokens) {
  {
    MutexLock lock(&mutex_);
    if (open_events_ == kMaxBatchEvents) {
      ++open_batch_;
      open_events_ = 0;
    }
    ++open_events_;
    Event& event = ring_[next_id_ % ring_.size()];
    event.kind = kind;
    event.batch = open_batch_;
    event.id = next_id_++;
    event.hash = BlockHash(hash);
    event.has_parent = parent != nullptr && parent->publication != 0;
    event.parent = event.has_parent ? BlockHash(parent->hash) : 0;
    std::copy(tokens.begin(), tokens.end(), event.tokens.begin());
  }
  Notify();
}

void KvEventLog::Notify() {
  MutexLock lock(&listeners_mutex_);
  for (const auto& listener : listeners_) listener->OnKvEvents();
}

// Ids in the ring are consecutive and their batches never decrease.
uint64_t KvEventLog::FirstOfLocked(uint64_t batch) const {
  uint64_t low = next_id_ > ring_.size() ? next_id_ - ring_.size() : 1;
  uint64_t high = next_id_;
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    if (At(middle).batch < batch) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The batch of the oldest event may have lost its beginning to newer ones.
uint64_t KvEventLog::OldestWholeBatchLocked() const {
  if (next_id_ <= ring_.size()) return 1;
  return At(next_id_ - ring_.size()).batch + 1;
}

KvEventLog::ReadResult KvEventLog::Read(uint64_t* next, wire::KvEventBatch* batch) {
  std::vector<Event> events;
  bool snapshot = false;
  {
    MutexLock lock(&mutex_);
    if (closed_) return ReadResult::kClosed;
    // A number that was never given is of an earlier life of this server.
    const uint64_t end = open_batch_ + (open_events_ > 0 ? 1 : 0);
    if (*next > end) *next = 0;
    const uint64_t oldest = OldestWholeBatchLocked();
    snapshot = *next < oldest && oldest > 1;
    *next = std::max<uint64_t>(*next, 1);
    if (snapshot) {
      *next = oldest - 1;
    } else if (*next >= end) {
      return ReadResult::kNothing;
    } else {
      events = TakeLocked(*next);
    }
  }
  batch->Clear();
  batch->set_timestamp(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  batch->set_sequence_number(*next);
  if (snapshot) {
    batch->mutable_snapshot()->set_count(1);
    batch->mutable_snapshot()->set_unknown_before(*next);
    batch->add_events()->mutable_cleared();
  } else {
    Fill(events, batch);
  }
  ++*next;
  return ReadResult::kBatch;
}

// A copy, so that the engine's thread need not wait for the message that is made of it. The batch
// is full from now on.
std::vector<KvEventLog::Event> KvEventLog::TakeLocked(uint64_t batch) {
  const uint64_t first = FirstOfLocked(batch);
  uint64_t last = first;
  while (last < next_id_ && At(last).batch == batch) ++last;
  std::vector<Event> events;
  events.reserve(last - first);
  for (uint64_t id = first; id < last; ++id) events.push_back(At(id));
  if (batch == open_batch_) {
    ++open_batch_;
    open_events_ = 0;
  }
  return events;
}

void KvEventLog::Fill(std::span<const Event> events, wire::KvEventBatch* out) {
  wire::KvCacheEvent* last = nullptr;
  int64_t last_hash = 0;
  for (const Event& event : events) {
    const bool child = last != nullptr && last->has_stored() && event.kind == Kind::kStored &&
                       event.has_parent && event.parent == last_hash;
    if (!child) {
      last = out->add_events();
      last->set_event_id(event.id);
    }
    switch (event.kind) {
      case Kind::kCleared:
        last->mutable_cleared();
        break;
      case Kind::kRemoved:
        last->mutable_removed()->add_block_hashes(event.hash);
        break;
      case Kind::kStored: {
        if (!child && event.has_parent) last->mutable_stored()->set_parent_block_hash(event.parent);
        wire::KvBlock* block = last->mutable_stored()->add_blocks();
        block->set_block_hash(event.hash);
        block->set_block_size(kPageTokens);
        block->mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
        last_hash = event.hash;
        break;
      }
    }
  }
}

absl::Status KvEventLog::AddListener(std::shared_ptr<KvEventListener> listener) {
  MutexLock lock(&listeners_mutex_);
  if (listeners_.size() >= kMaxListeners) {
    return absl::ResourceExhaustedError("too many subscribers to KV events");
  }
  listeners_.push_back(std::move(listener));
  return absl::OkStatus();
}

void KvEventLog::RemoveListener(const KvEventListener* listener) {
  MutexLock lock(&listeners_mutex_);
  std::erase_if(listeners_, [&](const auto& held) { return held.get() == listener; });
}

void KvEventLog::Close() {
  {
    MutexLock lock(&mutex_);
    closed_ = true;
  }
  Notify();
}

}  // namespace parallax::server
