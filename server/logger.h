// Logger: one JSON object a line on a file descriptor (stderr in the server).
//
//   {"time":"2026-01-31T12:00:00.123Z","level":"warning","event":"request_failed",
//    "request_id":"...","code":"INTERNAL"}
//
// Values are escaped, so a hostile request id cannot forge a line. Outputs are never logged,
// prompts only with --log-prompts. Whoever reads the log holds nobody up: lines for which there is no
// room are dropped, and counted in a line "log_lines_dropped" (line_writer.h).
//
// The last warnings and errors are also kept in memory, whatever the threshold, for the
// status page.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_LOGGER_H_
#define PARALLAX_SERVER_LOGGER_H_

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "server/line_writer.h"
#include "server/recent_lines.h"

namespace parallax::server {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// One key and its value; numbers and booleans are written without quotes.
class LogField {
 public:
  LogField(std::string_view key, std::string_view value);
  LogField(std::string_view key, const char* value) : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, const std::string& value)
      : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, bool value) : key_(key), json_(value ? "true" : "false") {}
  template <std::integral T>
  LogField(std::string_view key, T value) : key_(key), json_(std::to_string(value)) {}

  std::string_view key() const { return key_; }
  std::string_view json() const { return json_; }

 private:
  std::string_view key_;
  std::string json_;
};

class Logger {
 public:
  explicit Logger(LogLevel threshold, int fd = 2) : threshold_(threshold), writer_(fd) {}

  /// Whether a line of this level is written or kept.
  bool Enabled(LogLevel level) const { return level >= threshold_ || IsProblem(level); }
  void Log(LogLevel level, std::string_view event,
           std::initializer_list<LogField> fields = {}) const;

  void Debug(std::string_view event, std::initializer_list<LogField> fields = {}) const {
    Log(LogLevel::kDebug, event, fields);
  }
  void Info(std::string_view event, std::initializer_list<LogField> fields = {}) const {
    Log(LogLevel::kInfo, event, fields);
  }
  void Warning(std::string_view event, std::initializer_list<LogField> fields = {}) const {
    Log(LogLevel::kWarning, event, fields);
  }
  void Error(std::string_view event, std::initializer_list<LogField> fields = {}) const {
    Log(LogLevel::kError, event, fields);
  }

  /// The last warnings and errors, oldest first: JSON objects, without the line's end. Of one
  /// longer than 4 KiB the fields are left out and "truncated":true stands for them.
  std::vector<std::string> RecentProblems() const { return problems_.Read(); }

 private:
  static bool IsProblem(LogLevel level) { return level >= LogLevel::kWarning; }

  const LogLevel threshold_;
  mutable LineWriter writer_;
  mutable RecentLines problems_{20};
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_LOGGER_H_
