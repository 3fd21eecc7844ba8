// FinishReasonName: why a choice ended, as logs and metrics have it.
//
// Thread safety: pure function.
#ifndef PARALLAX_SERVER_FINISH_REASON_H_
#define PARALLAX_SERVER_FINISH_REASON_H_

#include <string_view>

#include "engine/token_sink.h"

namespace parallax::server {

inline constexpr int kNumFinishReasons = 5;

constexpr std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      break;
  }
  return "error";
}

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_FINISH_REASON_H_
