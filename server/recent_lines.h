// RecentLines: the last few lines of something, for whoever asks later.
//
// Bounded: the oldest line makes room for the newest.
//
// Thread safety: safe; the lock is held for a copy only.
#ifndef PARALLAX_SERVER_RECENT_LINES_H_
#define PARALLAX_SERVER_RECENT_LINES_H_

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "engine/base/mutex.h"

namespace parallax::server {

class RecentLines {
 public:
  explicit RecentLines(size_t capacity) : capacity_(capacity) {}

  void Add(std::string line);
  /// Oldest first.
  std::vector<std::string> Read() const;

 private:
  const size_t capacity_;
  mutable Mutex mutex_;
  std::deque<std::string> lines_ PARALLAX_GUARDED_BY(mutex_);
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_RECENT_LINES_H_
