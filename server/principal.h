// Principal: who a call is from, and how much that caller may ask for.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_PRINCIPAL_H_
#define PARALLAX_SERVER_PRINCIPAL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"

namespace parallax::server {

/// Unset = unlimited.
struct CallerLimits {
  std::optional<int32_t> max_concurrent = {};          // Generate and GenerateStream
  std::optional<double> max_requests_per_second = {};  // these, Tokenize and Detokenize
};

class Principal;

/// One running request of a principal; gives its place back when destroyed.
class Permit {
 public:
  Permit() = default;
  explicit Permit(std::shared_ptr<Principal> owner) : owner_(std::move(owner)) {}
  ~Permit() { Release(); }
  Permit(Permit&& other) noexcept = default;
  Permit& operator=(Permit&& other) noexcept;

  void Release();

 private:
  std::shared_ptr<Principal> owner_;
};

class Principal : public std::enable_shared_from_this<Principal> {
 public:
  Principal(std::string name, const CallerLimits& limits);

  const std::string& name() const { return name_; }

  /// Admits one request to run. RESOURCE_EXHAUSTED, with a retry hint, over a limit.
  absl::StatusOr<Permit> AdmitRequest(absl::Time now);

  /// Counts one short call against the rate. RESOURCE_EXHAUSTED, with a retry hint.
  absl::Status ChargeRate(absl::Time now);

  /// Takes new limits; running requests stay.
  void SetLimits(const CallerLimits& limits);

 private:
  friend class Permit;
  void ReleaseOne();
  absl::Status ChargeRateLocked(absl::Time now) PARALLAX_REQUIRES(mutex_);

  const std::string name_;
  Mutex mutex_;
  CallerLimits limits_ PARALLAX_GUARDED_BY(mutex_);
  int32_t running_ PARALLAX_GUARDED_BY(mutex_) = 0;
  // Token bucket: holds up to one second's worth (at least one), refilled at the rate.
  double bucket_ PARALLAX_GUARDED_BY(mutex_);
  absl::Time refilled_ PARALLAX_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_PRINCIPAL_H_
