// A fixed pool of threads for data-parallel loops.
//
// A loop over task indices is shared by the calling thread and size() - 1 workers. Indices
// are claimed one at a time, so uneven tasks balance. Workers spin for a moment between loops,
// because the ops of a decode step follow each other within microseconds, and then wait on a
// condition variable. Nothing is allocated per loop; every thread has scratch memory, allocated
// at construction, that a task may use while it runs.
//
// Thread safety: ParallelFor may be called from any thread; loops of different callers run
// one after the other. REQUIRES: not called from inside a task.
#ifndef PARALLAX_KERNELS_CPU_THREAD_POOL_H_
#define PARALLAX_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace parallax::kernels {

class ThreadPool {
 public:
  // Scratch of one thread: blocks of operands that ops keep in a core's own cache.
  static constexpr size_t kScratchBytes = size_t{512} << 10;

  // num_threads counts the calling thread: 1 runs every loop inline. Values below 1 are 1.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // The kScratchBytes of thread number `thread`, aligned to a cache line. Contents do not
  // survive the task.
  std::byte* scratch(int thread) { return scratch_.get() + thread * kScratchBytes; }

  // Calls task(index, thread) for every index in [0, num_tasks) and returns when all have
  // finished. thread is in [0, size()), and no two tasks with one thread number overlap in
  // time: it names scratch memory. Tasks must not throw.
  template <typename Task>
  void ParallelFor(int64_t num_tasks, const Task& task) {
    static_assert(std::is_invocable_v<const Task&, int64_t, int>);
    Run(num_tasks, &task, [](const void* context, int64_t index, int thread) noexcept {
      (*static_cast<const Task*>(context))(index, thread);
    });
  }

 private:
  struct FreeScratch {
    void operator()(std::byte* memory) const;
  };

  using Function = void (*)(const void* context, int64_t index, int thread) noexcept;

  void Run(int64_t num_tasks, const void* context, Function function);
  void WorkerLoop(int thread);
  // Claims and runs tasks of the current loop until none is left to claim.
  void RunTasks(int thread);
  void WakeWorkers(int64_t num_tasks);
  void WaitUntilFinished();

  // The current loop. `tickets_` packs its generation (high half) with the number of tasks
  // not yet claimed (low half). A claim is a compare-and-swap of that one word, so it can
  // only succeed while the loop whose fields were read is still the current one.
  alignas(64) std::atomic<uint64_t> tickets_{0};
  std::atomic<const void*> context_{nullptr};
  std::atomic<Function> function_{nullptr};
  std::atomic<int64_t> num_tasks_{0};
  alignas(64) std::atomic<int64_t> unfinished_{0};

  std::mutex caller_mutex_;  // one loop at a time

  std::mutex mutex_;  // guards the waits below
  std::condition_variable work_available_;
  std::condition_variable work_finished_;
  std::atomic<int> sleeping_workers_{0};
  std::atomic<bool> caller_sleeping_{false};
  std::atomic<bool> stopping_{false};

  std::unique_ptr<std::byte, FreeScratch> scratch_;
  std::vector<std::thread> workers_;
};

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_CPU_THREAD_POOL_H_
