// StatsBoard: where the engine thread leaves its counters for everyone else.
//
// Readers never wait for a step: the lock is held for a copy only, so that a watchdog sees
// a hung step as last_progress standing still while the engine is not idle.
//
// Thread safety: all methods may be called from any thread; only the engine thread writes.
#ifndef PARALLAX_ENGINE_STATS_BOARD_H_
#define PARALLAX_ENGINE_STATS_BOARD_H_

#include "engine/base/mutex.h"
#include "engine/engine.h"

namespace parallax {

class StatsBoard {
 public:
  void Publish(const EngineStats& stats) {
    MutexLock lock(&mutex_);
    stats_ = stats;
  }

  EngineStats Read() const {
    MutexLock lock(&mutex_);
    return stats_;
  }

 private:
  mutable Mutex mutex_;
  EngineStats stats_ PARALLAX_GUARDED_BY(mutex_);
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_STATS_BOARD_H_
