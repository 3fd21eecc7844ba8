// When a failed call is worth another try, and how long to wait before it.
//
// Retried: UNAVAILABLE (draining, restarting, not reachable), and RESOURCE_EXHAUSTED with the
// server's `retry-after-ms` (queue full, the caller's limit reached). Without it the limit is
// one that waiting does not mend, such as the size of a message or of a reply: another try
// would have the server do the same work for the same end. A stream is retried only while it
// has delivered nothing. The wait is `retry-after-ms` where the server sent one, else
// exponential; either is spread at random so that refused clients do not come back all at once.
//
// Thread safety: RetryPolicy is plain data; a Backoff belongs to one call.
#ifndef PARALLAX_CLIENTS_CPP_RETRY_H_
#define PARALLAX_CLIENTS_CPP_RETRY_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <optional>
#include <random>

namespace parallax::client {

struct RetryPolicy {
  int max_attempts = 5;  // the first one included; 1 = never retry
  std::chrono::milliseconds initial_backoff{100};
  std::chrono::milliseconds max_backoff{5000};  // also bounds what a server may ask for
  double multiplier = 2.0;
  double jitter = 0.2;  // a wait is drawn from [1 - jitter, 1 + jitter] times the back-off
};

/// Whether another try may succeed, by the call's status and what RetryAfter says of it.
bool IsRetryable(const grpc::Status& status, std::optional<std::chrono::milliseconds> retry_after);

/// The server's hint in the trailing metadata, if it sent a sensible one.
std::optional<std::chrono::milliseconds> RetryAfter(const grpc::ClientContext& context);

class Backoff {
 public:
  explicit Backoff(const RetryPolicy& policy);

  /// The wait before the next attempt; nullopt if there should be none.
  std::optional<std::chrono::milliseconds> Next(const grpc::Status& status,
                                                const grpc::ClientContext& context);

 private:
  const RetryPolicy policy_;
  int attempts_ = 1;
  std::chrono::duration<double, std::milli> backoff_;
  std::minstd_rand random_;
};

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_RETRY_H_
