#include "bench/server/loadgen/arrival_process.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace parallax::loadgen {
namespace {

absl::Status CheckPositive(const char* option, double value) {
  if (value > 0.0 && std::isfinite(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(option, " must be positive, is ", value));
}

}  // namespace

absl::Status ValidateArrivalOptions(const ArrivalOptions& options) {
  if (options.kind == ArrivalKind::kTrace) {
    if (options.rate == 0.0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("rate: ", options.rate, ", but a trace says when its requests start"));
  }
  if (absl::Status status = CheckPositive("rate", options.rate); !status.ok()) return status;
  if (options.kind == ArrivalKind::kGamma) return CheckPositive("burstiness", options.burstiness);
  if (options.kind != ArrivalKind::kRamp) return absl::OkStatus();
  if (absl::Status status = CheckPositive("rate_end", options.rate_end); !status.ok()) {
    return status;
  }
  return CheckPositive("ramp_seconds", options.ramp_seconds);
}

ArrivalProcess::ArrivalProcess(const ArrivalOptions& options, uint64_t seed)
    : options_(options), random_(seed) {}

int64_t ArrivalProcess::NextNs() {
  now_seconds_ += NextGapSeconds();
  return static_cast<int64_t>(now_seconds_ * 1e9);
}

double ArrivalProcess::NextGapSeconds() {
  const double mean = 1.0 / options_.rate;
  switch (options_.kind) {
    case ArrivalKind::kTrace:  // excluded by the constructor's REQUIRES
    case ArrivalKind::kConstant:
      return mean;
    case ArrivalKind::kPoisson:
      return std::exponential_distribution<double>(options_.rate)(random_);
    case ArrivalKind::kGamma:
      return std::gamma_distribution<double>(options_.burstiness,
                                             mean / options_.burstiness)(random_);
    case ArrivalKind::kRamp: {
      // The gap g solves: integral of the rate from now to now + g is one request.
      const double slope = (options_.rate_end - options_.rate) / options_.ramp_seconds;
      if (now_seconds_ >= options_.ramp_seconds || slope == 0.0) return 1.0 / options_.rate_end;
      const double rate_now = options_.rate + slope * now_seconds_;
      const double discriminant = rate_now * rate_now + 2.0 * slope;
      if (discriminant <= 0.0) return 1.0 / options_.rate_end;
      return 2.0 / (rate_now + std::sqrt(discriminant));
    }
  }
  return mean;
}

}  // namespace parallax::loadgen
