// Cuts row-wise work into tasks that are worth a thread's while.
#ifndef PARALLAX_KERNELS_CPU_PARALLEL_ROWS_H_
#define PARALLAX_KERNELS_CPU_PARALLEL_ROWS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace parallax::kernels::cpu {

// Calls body(begin, end, thread) for ranges that cover [0, rows). Work below about ten
// microseconds, as decode steps of small models bring, stays on the calling thread.
template <typename Body>
void ParallelRows(ThreadPool& pool, int64_t rows, int64_t elements_per_row, const Body& body) {
  constexpr int64_t kMinElementsPerTask = 16384;
  constexpr int64_t kTasksPerThread = 4;
  if (rows == 0) return;
  const int64_t worthwhile = rows * elements_per_row / kMinElementsPerTask;
  const int64_t most = std::min<int64_t>(rows, pool.size() * kTasksPerThread);
  const int64_t tasks = std::clamp<int64_t>(worthwhile, 1, most);
  pool.ParallelFor(tasks, [&](int64_t task, int thread) {
    body(rows * task / tasks, rows * (task + 1) / tasks, thread);
  });
}

}  // namespace parallax::kernels::cpu

#endif  // PARALLAX_KERNELS_CPU_PARALLEL_ROWS_H_
