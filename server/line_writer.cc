#include "server/line_writer.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace parallax::server {
namespace {

constexpr int kPatienceMs = 100;

}  // namespace

int64_t LineWriter::Write(std::string_view line) {
  MutexLock lock(&mutex_);
  if (torn_ && WriteLocked("\n")) torn_ = false;
  if (!torn_ && WriteLocked(line)) return std::exchange(dropped_, 0);
  ++dropped_;
  return 0;
}

// False if there was no room, or on an error, of which there is nobody to tell.
bool LineWriter::WriteLocked(std::string_view line) {
  const size_t size = line.size();
  while (!line.empty() && HasRoomLocked()) {
    // A pipe that has room at all has room for that much: the call does not block.
    const ssize_t written = ::write(fd_, line.data(), std::min<size_t>(line.size(), PIPE_BUF));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    line.remove_prefix(static_cast<size_t>(written));
  }
  torn_ = torn_ || (!line.empty() && line.size() < size);
  return line.empty();
}

bool LineWriter::HasRoomLocked() {
  pollfd target{.fd = fd_, .events = POLLOUT, .revents = 0};
  int ready;
  do {
    ready = poll(&target, 1, blocked_ ? 0 : kPatienceMs);
  } while (ready < 0 && errno == EINTR);
  blocked_ = ready <= 0;
  return !blocked_;
}

}  // namespace parallax::server
