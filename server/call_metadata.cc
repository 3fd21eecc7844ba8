#include "server/call_metadata.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "engine/retry_after.h"
#include "server/trace_context.h"

namespace parallax::server {

std::optional<std::string_view> SingleMetadatum(const grpc::ServerContextBase& context,
                                                const char* key) {
  const auto [first, last] = context.client_metadata().equal_range(key);
  if (first == last || std::next(first) != last) return std::nullopt;
  return std::string_view(first->second.data(), first->second.size());
}

std::string TraceparentOf(const grpc::ServerContextBase& context) {
  const std::optional<std::string_view> value = SingleMetadatum(context, "traceparent");
  return value.has_value() && IsTraceparent(*value) ? std::string(*value) : std::string();
}

absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

void AddRetryAfter(const absl::Status& status, grpc::ServerContextBase* context) {
  const std::optional<absl::Duration> delay = GetRetryAfter(status);
  if (!delay.has_value()) return;
  const int64_t milliseconds =
      std::max<int64_t>(1, absl::ToInt64Milliseconds(absl::Ceil(*delay, absl::Milliseconds(1))));
  context->AddTrailingMetadata("retry-after-ms", std::to_string(milliseconds));
}

void EchoTraceparent(const std::string& traceparent, grpc::ServerContextBase* context) {
  if (!traceparent.empty()) context->AddTrailingMetadata("traceparent", traceparent);
}

}  // namespace parallax::server
