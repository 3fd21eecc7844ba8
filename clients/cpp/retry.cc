#include "clients/cpp/retry.h"

#include <algorithm>
#include <charconv>

namespace parallax::client {

bool IsRetryable(const grpc::Status& status, std::optional<std::chrono::milliseconds> retry_after) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && retry_after);
}

std::optional<std::chrono::milliseconds> RetryAfter(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto hint = metadata.find("retry-after-ms");
  if (hint == metadata.end()) return std::nullopt;
  const grpc::string_ref value = hint->second;
  int64_t ms = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), ms);
  if (error != std::errc() || end != value.data() + value.size() || ms < 0) return std::nullopt;
  return std::chrono::milliseconds(ms);
}

Backoff::Backoff(const RetryPolicy& policy)
    : policy_(policy), backoff_(policy.initial_backoff), random_(std::random_device{}()) {}

std::optional<std::chrono::milliseconds> Backoff::Next(const grpc::Status& status,
                                                       const grpc::ClientContext& context) {
  const auto retry_after = RetryAfter(context);
  if (!IsRetryable(status, retry_after) || attempts_ >= policy_.max_attempts) return std::nullopt;
  ++attempts_;
  std::chrono::duration<double, std::milli> wait = backoff_;
  if (retry_after) wait = *retry_after;
  std::uniform_real_distribution<double> spread(1.0 - policy_.jitter, 1.0 + policy_.jitter);
  wait = std::min<std::chrono::duration<double, std::milli>>(wait * spread(random_),
                                                             policy_.max_backoff);
  backoff_ = std::min<std::chrono::duration<double, std::milli>>(backoff_ * policy_.multiplier,
                                                                 policy_.max_backoff);
  return std::chrono::duration_cast<std::chrono::milliseconds>(wait);
}

}  // namespace parallax::client
