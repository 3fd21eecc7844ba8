// KvEventLog: the last events of the prefix cache, numbered, for any number of readers.
//
// The engine's thread appends; that costs a copy of the page's ids, and at most waits while a
// reader copies a batch. All memory is allocated at construction: a ring of events, the oldest of which is
// overwritten. Events are grouped into batches numbered from 1; a batch takes events until a
// reader has taken it or it is full, and is the same for everybody from then on. So slow
// readers get few large batches.
//
// A reader that asks for a number the ring no longer has gets a snapshot batch that clears what
// it knew, and the ring's oldest batch next: a replica's cache is then known in part, which
// costs a gateway some misrouted requests and nothing else.
//
// Block hashes are the low 64 bits of the cache's.
//
// Thread safety: safe. Listeners are called on the engine's thread, without the log's lock.
#ifndef PARALLAX_SERVER_VLLM_KV_EVENT_LOG_H_
#define PARALLAX_SERVER_VLLM_KV_EVENT_LOG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/mutex.h"
#include "engine/kv_cache/page.h"
#include "engine/kv_cache/prefix_cache.h"
#include "vllm/common.pb.h"

namespace parallax::server {

/// Somebody who reads the log as it grows.
class KvEventListener {
 public:
  virtual ~KvEventListener() = default;
  /// There may be more to read, or the log was closed. Does not block.
  virtual void OnKvEvents() = 0;
};

class KvEventLog final : public PrefixCacheObserver {
 public:
  static constexpr size_t kMaxBatchEvents = 256;  // 64 ids each: far below 4 MiB a message
  static constexpr size_t kMaxListeners = 64;

  /// Keeps `capacity` events, some 300 bytes each. REQUIRES: capacity >= 1.
  explicit KvEventLog(size_t capacity);

  // PrefixCacheObserver, on the engine's thread.
  void OnStored(const PrefixLink& parent, const Hash128& hash,
                std::span<const int32_t> tokens) override;
  void OnRemoved(const Hash128& hash) override;
  void OnCleared() override;

  enum class ReadResult { kBatch, kNothing, kClosed };
  /// Reads batch `*next` (0: the oldest) and moves `*next` on.
  ReadResult Read(uint64_t* next, ::smg::grpc::common::KvEventBatch* batch);

  /// RESOURCE_EXHAUSTED over kMaxListeners.
  absl::Status AddListener(std::shared_ptr<KvEventListener> listener);
  void RemoveListener(const KvEventListener* listener);

  /// Nothing more is to be read: for the end of the server.
  void Close();

 private:
  enum class Kind { kStored, kRemoved, kCleared };
  struct Event {
    Kind kind = Kind::kCleared;
    uint64_t batch = 0;
    uint64_t id = 0;
    int64_t hash = 0;
    int64_t parent = 0;
    bool has_parent = false;
    std::array<int32_t, kPageTokens> tokens;  // of kStored
  };

  void Append(Kind kind, const PrefixLink* parent, const Hash128& hash,
              std::span<const int32_t> tokens);
  void Notify();
  uint64_t OldestWholeBatchLocked() const PARALLAX_REQUIRES(mutex_);
  const Event& At(uint64_t id) const PARALLAX_REQUIRES(mutex_) { return ring_[id % ring_.size()]; }
  uint64_t FirstOfLocked(uint64_t batch) const PARALLAX_REQUIRES(mutex_);
  std::vector<Event> TakeLocked(uint64_t batch) PARALLAX_REQUIRES(mutex_);
  static void Fill(std::span<const Event> events, ::smg::grpc::common::KvEventBatch* out);

  mutable Mutex mutex_;
  std::vector<Event> ring_ PARALLAX_GUARDED_BY(mutex_);  // event `id` is at id % size
  uint64_t next_id_ PARALLAX_GUARDED_BY(mutex_) = 1;     // of the next event
  uint64_t open_batch_ PARALLAX_GUARDED_BY(mutex_) = 1;  // the one that takes events
  size_t open_events_ PARALLAX_GUARDED_BY(mutex_) = 0;
  bool closed_ PARALLAX_GUARDED_BY(mutex_) = false;

  Mutex listeners_mutex_;
  std::vector<std::shared_ptr<KvEventListener>> listeners_ PARALLAX_GUARDED_BY(listeners_mutex_);
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_KV_EVENT_LOG_H_
