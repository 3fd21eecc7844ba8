// ArrivalProcess: the intended start times of an open loop.
//
//   constant  one every 1/rate seconds
//   poisson   independent users: exponential gaps
//   gamma     gaps of shape `burstiness` and mean 1/rate: below 1 burstier than Poisson,
//             1 = Poisson, above 1 smoother (variance of a gap = mean^2 / burstiness)
//   ramp      constant spacing at a rate that goes linearly from `rate` to `rate_end` over
//             `ramp_seconds` and stays there
//   trace     at the timestamps of a trace, once through; not this class's work
//
// Thread safety: none.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_ARRIVAL_PROCESS_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_ARRIVAL_PROCESS_H_

#include <cstdint>
#include <random>

#include "absl/status/status.h"

namespace parallax::loadgen {

enum class ArrivalKind { kConstant, kPoisson, kGamma, kRamp, kTrace };

struct ArrivalOptions {
  ArrivalKind kind = ArrivalKind::kPoisson;
  double rate = 1.0;          // requests a second, > 0; trace: 0
  double rate_end = 1.0;      // ramp only, > 0
  double ramp_seconds = 0.0;  // ramp only, > 0
  double burstiness = 1.0;    // gamma only, > 0
};

/// INVALID_ARGUMENT naming the option and its value.
absl::Status ValidateArrivalOptions(const ArrivalOptions& options);

class ArrivalProcess {
 public:
  /// REQUIRES: ValidateArrivalOptions(options) is OK, the kind is not kTrace.
  ArrivalProcess(const ArrivalOptions& options, uint64_t seed);

  /// Nanoseconds from the start to the next request; never decreases.
  int64_t NextNs();

 private:
  double NextGapSeconds();

  const ArrivalOptions options_;
  std::mt19937_64 random_;
  double now_seconds_ = 0.0;
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_ARRIVAL_PROCESS_H_
