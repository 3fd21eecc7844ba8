// What a caller may say about one call, whatever its method.
//
// Thread safety: plain data.
#ifndef PARALLAX_CLIENTS_CPP_CALL_OPTIONS_H_
#define PARALLAX_CLIENTS_CPP_CALL_OPTIONS_H_

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "clients/cpp/cancellation.h"
#include "clients/cpp/retry.h"

namespace parallax::client {

struct CallOptions {
  /// gRPC's deadline, over all attempts together. Past it the call ends with
  /// DEADLINE_EXCEEDED. Unset: none.
  std::optional<std::chrono::milliseconds> timeout;
  RetryPolicy retry;
  /// Sent with every attempt, such as {"traceparent", "00-..."}. Keys are lower case.
  std::vector<std::pair<std::string, std::string>> metadata = {};
  Cancellation* cancellation = nullptr;  // outlives the call, if set
};

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CALL_OPTIONS_H_
