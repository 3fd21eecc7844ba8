#include "clients/cpp/cli/format.h"

#include <cstdio>

namespace parallax::client {
namespace {

std::string DescribeReason(const v1::Finish& finish) {
  switch (finish.reason()) {
    case v1::FINISH_REASON_STOP:
      if (finish.has_stop_string()) return "stop at " + Quoted(finish.stop_string());
      return "stop at token " + std::to_string(finish.stop_token_id());
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_DEADLINE:
      return "deadline";
    default:
      return "unknown reason";
  }
}

}  // namespace

std::string Fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string DescribeFinish(const v1::Finish& finish) {
  const v1::Usage& usage = finish.usage();
  const v1::Timings& timings = finish.timings();
  std::string words = DescribeReason(finish) + " | " + std::to_string(usage.prompt_tokens()) +
                      " prompt tokens (" + std::to_string(usage.cached_tokens()) + " cached), " +
                      std::to_string(usage.completion_tokens()) + " completion tokens | queue " +
                      Fixed(timings.queue_us() / 1e3, 1) + " ms, prefill " +
                      Fixed(timings.prefill_us() / 1e3, 1) + " ms, decode " +
                      Fixed(timings.decode_us() / 1e3, 1) + " ms";
  if (timings.decode_us() > 0 && usage.completion_tokens() > 1) {
    words +=
        " (" + Fixed((usage.completion_tokens() - 1) * 1e6 / timings.decode_us(), 1) + " tokens/s)";
  }
  return words;
}

std::string Quoted(const std::string& bytes) {
  std::string quoted = "\"";
  for (const char c : bytes) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02x", static_cast<unsigned char>(c));
      quoted += escape;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace parallax::client
