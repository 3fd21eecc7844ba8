// WaitingQueue: who is next, by priority value, then arrival, then choice.
//
// One intrusive list a priority value and a bitmap of the values in use: taking the head,
// removing any element and adding a new arrival are O(1) and allocate nothing. A preempted
// sequence goes back to its old place, past those preempted before it.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_SCHEDULER_WAITING_QUEUE_H_
#define PARALLAX_ENGINE_SCHEDULER_WAITING_QUEUE_H_

#include <array>
#include <cstdint>

#include "engine/scheduler/sequence.h"

namespace parallax {

class WaitingQueue {
 public:
  /// REQUIRES: not queued; priority in range; state waiting.
  void Insert(Sequence* sequence);
  /// REQUIRES: queued.
  void Remove(Sequence* sequence);
  /// The head of the best class; null if nobody waits.
  Sequence* Front() const;

  bool empty() const { return size_ == 0; }
  int32_t size() const { return size_; }

 private:
  static constexpr int kClasses = Request::kMaxPriority - Request::kMinPriority + 1;
  struct List {
    Sequence* head = nullptr;
    Sequence* tail = nullptr;
  };

  static int ClassOf(const Sequence& sequence);

  std::array<List, kClasses> classes_;
  std::array<uint64_t, (kClasses + 63) / 64> in_use_ = {};  // bit c: classes_[c] is not empty
  int32_t size_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_SCHEDULER_WAITING_QUEUE_H_
