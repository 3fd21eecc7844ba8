#include "engine/scheduler/waiting_queue.h"

#include <bit>

#include "engine/kv_cache/invariant.h"

namespace parallax {

int WaitingQueue::ClassOf(const Sequence& sequence) {
  const int32_t priority = sequence.group->request.priority;
  CheckInvariant(priority >= Request::kMinPriority && priority <= Request::kMaxPriority,
                 "priority is in range");
  return priority - Request::kMinPriority;
}

void WaitingQueue::Insert(Sequence* sequence) {
  CheckInvariant(!sequence->queued && sequence->state == SequenceState::kWaiting,
                 "a waiting sequence is queued once");
  const int c = ClassOf(*sequence);
  List& list = classes_[c];
  Sequence* next = nullptr;  // the first that `sequence` comes before
  if (list.tail != nullptr && RunsBefore(*sequence, *list.tail)) {
    for (next = list.head; RunsBefore(*next, *sequence); next = next->queue_next) {
    }
  }
  Sequence* previous = next != nullptr ? next->queue_previous : list.tail;
  sequence->queue_next = next;
  sequence->queue_previous = previous;
  (previous != nullptr ? previous->queue_next : list.head) = sequence;
  (next != nullptr ? next->queue_previous : list.tail) = sequence;
  sequence->queued = true;
  in_use_[c / 64] |= uint64_t{1} << (c % 64);
  ++size_;
}

void WaitingQueue::Remove(Sequence* sequence) {
  CheckInvariant(sequence->queued, "only a queued sequence leaves the queue");
  const int c = ClassOf(*sequence);
  List& list = classes_[c];
  Sequence* const previous = sequence->queue_previous;
  Sequence* const next = sequence->queue_next;
  (previous != nullptr ? previous->queue_next : list.head) = next;
  (next != nullptr ? next->queue_previous : list.tail) = previous;
  sequence->queue_previous = sequence->queue_next = nullptr;
  sequence->queued = false;
  if (list.head == nullptr) {
    in_use_[c / 64] &= ~(uint64_t{1} << (c % 64));
  }
  --size_;
}

Sequence* WaitingQueue::Front() const {
  for (size_t word = 0; word < in_use_.size(); ++word) {
    if (in_use_[word] != 0) {
      return classes_[word * 64 + std::countr_zero(in_use_[word])].head;
    }
  }
  return nullptr;
}

}  // namespace parallax
