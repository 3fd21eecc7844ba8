#include "server/recent_lines.h"

#include <utility>

namespace parallax::server {

void RecentLines::Add(std::string line) {
  MutexLock lock(&mutex_);
  if (lines_.size() == capacity_) lines_.pop_front();
  lines_.push_back(std::move(line));
}

std::vector<std::string> RecentLines::Read() const {
  MutexLock lock(&mutex_);
  return {lines_.begin(), lines_.end()};
}

}  // namespace parallax::server
