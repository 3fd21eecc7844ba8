#include "bench/kernels/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>

namespace parallax::bench {
namespace {

// Independent sums, so that the loop waits for memory and not for additions.
constexpr int kAccumulators = 32;
constexpr size_t kWordsPerTask = size_t{1} << 17;  // 1 MiB

uint64_t SumWords(const uint64_t* words, size_t count) {
  uint64_t sums[kAccumulators] = {};
  for (size_t i = 0; i < count; i += kAccumulators) {
    for (int lane = 0; lane < kAccumulators; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double MeasureReadBandwidth(kernels::ThreadPool& pool, int repetitions) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kWords = kReadBufferBytes / sizeof(uint64_t);
  constexpr int64_t kTasks = kWords / kWordsPerTask;
  const auto words = std::make_unique_for_overwrite<uint64_t[]>(kWords);
  pool.ParallelFor(kTasks, [&](int64_t task, int /*thread*/) {
    std::fill_n(words.get() + task * kWordsPerTask, kWordsPerTask, uint64_t{1});
  });
  double best = 0.0;
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    std::atomic<uint64_t> total{0};
    const auto start = Clock::now();
    pool.ParallelFor(kTasks, [&](int64_t task, int /*thread*/) {
      total += SumWords(words.get() + task * kWordsPerTask, kWordsPerTask);
    });
    const std::chrono::duration<double> elapsed = Clock::now() - start;
    // The sum is used, or the compiler would drop the reads.
    if (total == kWords) best = std::max(best, kReadBufferBytes / elapsed.count());
  }
  return best;
}

}  // namespace parallax::bench
