// WriteDispatcher: threads that hand output to gRPC, so that the engine's thread need not.
//
// Serializing a message and pushing it through HTTP/2 costs some 10 us; times the batch
// size, that would be added to every step. The engine only marks a call as having output;
// these threads write. While they are busy with one call the others' deltas coalesce.
//
// A call waits in the queue at most once (its own `dispatched` flag sees to it), so the
// queue is bounded by the number of open calls.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_WRITE_DISPATCHER_H_
#define PARALLAX_SERVER_WRITE_DISPATCHER_H_

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "engine/base/mutex.h"

namespace parallax::server {

/// A call with output to write.
class Writable {
 public:
  virtual ~Writable() = default;
  /// Called on a dispatcher thread, once for each Dispatch. Does not block.
  virtual void Write() = 0;
};

class WriteDispatcher {
 public:
  /// REQUIRES: num_threads >= 1.
  explicit WriteDispatcher(int num_threads);
  /// Writes what is queued, then joins the threads.
  ~WriteDispatcher();
  WriteDispatcher(const WriteDispatcher&) = delete;
  WriteDispatcher& operator=(const WriteDispatcher&) = delete;

  /// A queue for one call to use for all its output: spreads calls over the threads.
  int AssignQueue();

  /// Has `writable->Write()` called soon. REQUIRES: it is not queued already.
  void Dispatch(int queue, std::shared_ptr<Writable> writable);

 private:
  struct Queue {
    Mutex mutex;
    CondVar ready;
    std::vector<std::shared_ptr<Writable>> waiting PARALLAX_GUARDED_BY(mutex);
    bool stopping PARALLAX_GUARDED_BY(mutex) = false;
    std::thread thread;
  };

  static void Run(Queue* queue);
  static bool WaitForWork(Queue* queue, std::vector<std::shared_ptr<Writable>>* work);

  std::vector<std::unique_ptr<Queue>> queues_;
  std::atomic<unsigned> next_queue_{0};
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_WRITE_DISPATCHER_H_
