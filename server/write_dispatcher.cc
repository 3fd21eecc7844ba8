#include "server/write_dispatcher.h"

#include <string>
#include <utility>

#include "engine/base/thread_name.h"

namespace parallax::server {

WriteDispatcher::WriteDispatcher(int num_threads) {
  for (int i = 0; i < num_threads; ++i) {
    queues_.push_back(std::make_unique<Queue>());
    queues_.back()->thread = std::thread([i, queue = queues_.back().get()] {
      NameThisThread("writer-" + std::to_string(i));
      Run(queue);
    });
  }
}

WriteDispatcher::~WriteDispatcher() {
  for (auto& queue : queues_) {
    {
      MutexLock lock(&queue->mutex);
      queue->stopping = true;
    }
    queue->ready.NotifyOne();
  }
  for (auto& queue : queues_) queue->thread.join();
}

int WriteDispatcher::AssignQueue() {
  return static_cast<int>(next_queue_.fetch_add(1, std::memory_order_relaxed) % queues_.size());
}

void WriteDispatcher::Dispatch(int queue_index, std::shared_ptr<Writable> writable) {
  Queue& queue = *queues_[queue_index];
  bool was_empty;
  {
    MutexLock lock(&queue.mutex);
    was_empty = queue.waiting.empty();
    queue.waiting.push_back(std::move(writable));
  }
  // One wake-up a burst: the thread takes everything that is queued.
  if (was_empty) queue.ready.NotifyOne();
}

bool WriteDispatcher::WaitForWork(Queue* queue, std::vector<std::shared_ptr<Writable>>* work) {
  MutexLock lock(&queue->mutex);
  while (queue->waiting.empty() && !queue->stopping) queue->ready.Wait(&queue->mutex);
  work->swap(queue->waiting);
  return !work->empty();
}

void WriteDispatcher::Run(Queue* queue) {
  std::vector<std::shared_ptr<Writable>> work;  // swapped with `waiting`: both keep capacity
  while (WaitForWork(queue, &work)) {
    for (auto& writable : work) writable->Write();
    work.clear();
  }
}

}  // namespace parallax::server
