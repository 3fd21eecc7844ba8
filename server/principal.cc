#include "server/principal.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/retry_after.h"

namespace parallax::server {
namespace {

// When a running request will end is not known; a client that waits this long neither
// hammers the server nor leaves its freed place unused for long.
constexpr absl::Duration kConcurrencyRetry = absl::Milliseconds(250);

double Burst(const CallerLimits& limits) {
  return std::max(1.0, limits.max_requests_per_second.value_or(1.0));
}

absl::Status Refusal(absl::Duration retry_after, std::string message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  SetRetryAfter(retry_after, &status);
  return status;
}

}  // namespace

Permit& Permit::operator=(Permit&& other) noexcept {
  Release();
  owner_ = std::move(other.owner_);
  return *this;
}

void Permit::Release() {
  if (const auto owner = std::exchange(owner_, nullptr)) owner->ReleaseOne();
}

Principal::Principal(std::string name, const CallerLimits& limits)
    : name_(std::move(name)), limits_(limits), bucket_(Burst(limits)) {}

absl::StatusOr<Permit> Principal::AdmitRequest(absl::Time now) {
  MutexLock lock(&mutex_);
  if (limits_.max_concurrent.has_value() && running_ >= *limits_.max_concurrent) {
    return Refusal(kConcurrencyRetry,
                   absl::StrCat(name_, " has ", running_, " requests running, its limit is ",
                                *limits_.max_concurrent));
  }
  if (absl::Status s = ChargeRateLocked(now); !s.ok()) return s;
  ++running_;
  return Permit(shared_from_this());
}

absl::Status Principal::ChargeRate(absl::Time now) {
  MutexLock lock(&mutex_);
  return ChargeRateLocked(now);
}

absl::Status Principal::ChargeRateLocked(absl::Time now) {
  if (!limits_.max_requests_per_second.has_value()) return absl::OkStatus();
  const double rate = *limits_.max_requests_per_second;
  if (now > refilled_) {
    const double earned = absl::ToDoubleSeconds(now - refilled_) * rate;
    bucket_ = std::min(Burst(limits_), bucket_ + earned);
    refilled_ = now;
  }
  if (bucket_ >= 1.0) {
    bucket_ -= 1.0;
    return absl::OkStatus();
  }
  return Refusal(absl::Seconds((1.0 - bucket_) / rate),
                 absl::StrCat(name_, " is over its limit of ", rate, " requests a second"));
}

void Principal::SetLimits(const CallerLimits& limits) {
  MutexLock lock(&mutex_);
  limits_ = limits;
  bucket_ = std::min(bucket_, Burst(limits));
}

void Principal::ReleaseOne() {
  MutexLock lock(&mutex_);
  --running_;
}

}  // namespace parallax::server
