#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <new>

#include "hwy/cache_control.h"

namespace parallax::kernels {
namespace {

// How long a thread spins before it sleeps: longer than the serial gaps between the ops of a
// step, shorter than anything a person or a scheduler would notice.
constexpr std::chrono::microseconds kSpinTime(50);
constexpr int kPausesPerClockRead = 32;
constexpr std::align_val_t kScratchAlignment{64};

constexpr uint32_t Unclaimed(uint64_t tickets) { return static_cast<uint32_t>(tickets); }

template <typename Condition>
bool SpinUntil(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (condition()) return true;
      hwy::Pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return condition();
}

}  // namespace

void ThreadPool::FreeScratch::operator()(std::byte* memory) const {
  ::operator delete(memory, kScratchAlignment);
}

ThreadPool::ThreadPool(int num_threads) {
  const int threads = std::max(num_threads, 1);
  scratch_.reset(
      static_cast<std::byte*>(::operator new(threads* kScratchBytes, kScratchAlignment)));
  workers_.reserve(threads - 1);
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { WorkerLoop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  work_available_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t num_tasks, const void* context, Function function) {
  if (num_tasks <= 0) return;
  assert(num_tasks <= INT32_MAX);
  std::lock_guard one_loop_at_a_time(caller_mutex_);
  if (workers_.empty() || num_tasks == 1) {
    for (int64_t index = 0; index < num_tasks; ++index) function(context, index, 0);
    return;
  }
  context_.store(context, std::memory_order_relaxed);
  function_.store(function, std::memory_order_relaxed);
  num_tasks_.store(num_tasks, std::memory_order_relaxed);
  unfinished_.store(num_tasks, std::memory_order_relaxed);
  const uint64_t generation = (tickets_.load(std::memory_order_relaxed) >> 32) + 1;
  tickets_.store(generation << 32 | static_cast<uint64_t>(num_tasks), std::memory_order_seq_cst);
  WakeWorkers(num_tasks);
  RunTasks(/*thread=*/0);
  WaitUntilFinished();
}

void ThreadPool::RunTasks(int thread) {
  uint64_t tickets = tickets_.load(std::memory_order_acquire);
  while (Unclaimed(tickets) != 0) {
    const void* const context = context_.load(std::memory_order_relaxed);
    const Function function = function_.load(std::memory_order_relaxed);
    const int64_t num_tasks = num_tasks_.load(std::memory_order_relaxed);
    if (!tickets_.compare_exchange_weak(tickets, tickets - 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
      continue;
    }
    function(context, num_tasks - Unclaimed(tickets), thread);
    // Sequentially consistent with caller_sleeping_: either this thread sees the caller
    // asleep, or the caller sees that nothing is left.
    if (unfinished_.fetch_sub(1) == 1 && caller_sleeping_.load()) {
      std::lock_guard lock(mutex_);
      work_finished_.notify_one();
    }
    tickets = tickets_.load(std::memory_order_acquire);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  const auto have_work = [this] { return Unclaimed(tickets_.load()) != 0 || stopping_.load(); };
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (!SpinUntil(have_work)) {
      std::unique_lock lock(mutex_);
      sleeping_workers_.fetch_add(1);
      work_available_.wait(lock, have_work);
      sleeping_workers_.fetch_sub(1);
    }
    RunTasks(thread);
  }
}

void ThreadPool::WakeWorkers(int64_t num_tasks) {
  // As above: a worker that this load misses has not yet looked at tickets_ for the last time.
  if (sleeping_workers_.load() == 0) return;
  { std::lock_guard lock(mutex_); }
  if (num_tasks - 1 >= static_cast<int64_t>(workers_.size())) {
    work_available_.notify_all();
    return;
  }
  for (int64_t i = 0; i < num_tasks - 1; ++i) work_available_.notify_one();
}

void ThreadPool::WaitUntilFinished() {
  const auto finished = [this] { return unfinished_.load() == 0; };
  if (SpinUntil(finished)) return;
  std::unique_lock lock(mutex_);
  caller_sleeping_.store(true);
  work_finished_.wait(lock, finished);
  caller_sleeping_.store(false);
}

}  // namespace parallax::kernels
