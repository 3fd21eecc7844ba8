#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

namespace parallax::kernels {
namespace {

TEST(ThreadPoolTest, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 3, 4}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t tasks : {0, 1, 2, 3, 7, 100, 1000}) {
      std::vector<std::atomic<int>> runs(tasks);
      pool.ParallelFor(tasks, [&](int64_t index, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++runs[index];
      });
      for (const std::atomic<int>& count : runs) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPoolTest, FewerThanOneThreadIsOne) { EXPECT_EQ(ThreadPool(0).size(), 1); }

// Plain (not atomic) writes of tasks are visible to the caller, and those before the loop to
// the tasks: what a thread sanitizer checks here.
TEST(ThreadPoolTest, LoopsHappenAfterEachOther) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.ParallelFor(64, [&](int64_t index, int /*thread*/) { ++values[63 - index]; });
  }
  for (int64_t value : values) ASSERT_EQ(value, 2000);
}

TEST(ThreadPoolTest, WakesSleepingWorkers) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    // Long enough for the worker to stop spinning. Both tasks wait for each other, so the loop
    // ends only if the worker wakes.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> arrived{0};
    pool.ParallelFor(2, [&](int64_t /*index*/, int /*thread*/) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    EXPECT_EQ(arrived, 2);
  }
}

TEST(ThreadPoolTest, CallerSleepsThroughALongTask) {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  pool.ParallelFor(2, [&](int64_t /*index*/, int thread) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
    if (thread != 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  });
  EXPECT_EQ(arrived, 2);
}

TEST(ThreadPoolTest, SeveralCallersTakeTurns) {
  ThreadPool pool(3);
  std::atomic<int64_t> total{0};
  const auto caller = [&] {
    for (int round = 0; round < 200; ++round) {
      std::atomic<int64_t> sum{0};
      pool.ParallelFor(10, [&](int64_t index, int /*thread*/) { sum += index; });
      total += sum;
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back(caller);
  for (std::thread& thread : callers) thread.join();
  EXPECT_EQ(total, 3 * 200 * 45);
}

TEST(ThreadPoolTest, ScratchBelongsToOneThreadAtATime) {
  ThreadPool pool(3);
  pool.ParallelFor(50, [&](int64_t index, int thread) {
    std::byte* const scratch = pool.scratch(thread);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(scratch) % 64, 0u);
    std::memset(scratch, static_cast<int>(index), ThreadPool::kScratchBytes);
    for (size_t i = 0; i < ThreadPool::kScratchBytes; i += 4096) {
      ASSERT_EQ(scratch[i], static_cast<std::byte>(index));
    }
  });
}

}  // namespace
}  // namespace parallax::kernels
