#include "server/logger.h"

#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace parallax::server {
namespace {

constexpr size_t kMaxKeptBytes = 4096;

// JSON string of printable ASCII; every other byte becomes \u00XX, so that the line stays
// one line and valid JSON whatever the bytes are.
std::string Quote(std::string_view value) {
  std::string quoted = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      absl::StrAppendFormat(&quoted, "\\u%04x", byte);
    } else {
      quoted += c;
    }
  }
  quoted += '"';
  return quoted;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

std::string Head(LogLevel level, std::string_view event) {
  std::string head =
      absl::FormatTime("{\"time\":\"%Y-%m-%dT%H:%M:%E3SZ\"", absl::Now(), absl::UTCTimeZone());
  head.append(",\"level\":\"").append(LevelName(level)).append("\",\"event\":");
  return head.append(Quote(event));
}

}  // namespace

LogField::LogField(std::string_view key, std::string_view value) : key_(key), json_(Quote(value)) {}

void Logger::Log(LogLevel level, std::string_view event,
                 std::initializer_list<LogField> fields) const {
  if (!Enabled(level)) return;
  std::string line = Head(level, event);
  const size_t head = line.size();
  for (const LogField& field : fields) {
    line.append(",").append(Quote(field.key())).append(":").append(field.json());
  }
  line.append("}");
  if (IsProblem(level)) {
    problems_.Add(line.size() <= kMaxKeptBytes ? line
                                               : line.substr(0, head) + ",\"truncated\":true}");
  }
  if (level < threshold_) return;
  line.append("\n");
  const int64_t dropped = writer_.Write(line);
  if (dropped == 0) return;
  line = Head(LogLevel::kWarning, "log_lines_dropped");
  writer_.Write(line.append(",\"lines\":").append(std::to_string(dropped)).append("}\n"));
}

}  // namespace parallax::server
