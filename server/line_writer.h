// LineWriter: lines to a file descriptor, without waiting long for who reads it.
//
// Where the descriptor is a pipe whose reader stands still (a log collector with a full disk),
// write(2) would hold up whoever has something to log, and with it all streams. Here a line is
// dropped after 100 ms without room, and so are those after it, at once, until there is room again.
//
// Lines do not interleave with those of other threads; up to PIPE_BUF (4 KiB) each is one write(2),
// so that they do not with those of other processes either.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_LINE_WRITER_H_
#define PARALLAX_SERVER_LINE_WRITER_H_

#include <cstdint>
#include <string_view>

#include "engine/base/mutex.h"

namespace parallax::server {

class LineWriter {
 public:
  explicit LineWriter(int fd) : fd_(fd) {}

  /// `line` ends with its line break. Returns how many lines were dropped since the last that was
  /// written; 0 if this is one of them.
  int64_t Write(std::string_view line);

 private:
  bool WriteLocked(std::string_view line) PARALLAX_REQUIRES(mutex_);
  bool HasRoomLocked() PARALLAX_REQUIRES(mutex_);

  const int fd_;
  Mutex mutex_;
  int64_t dropped_ PARALLAX_GUARDED_BY(mutex_) = 0;
  bool blocked_ PARALLAX_GUARDED_BY(mutex_) = false;  // there was no room when last tried
  bool torn_ PARALLAX_GUARDED_BY(mutex_) = false;     // the last line has no end
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_LINE_WRITER_H_
