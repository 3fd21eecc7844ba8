// Time that no clock step reaches, for durations: steps, stalls, queueing, latencies.
//
// SteadyNow is an absl::Time, so that it can be compared and subtracted as usual; it agrees with
// absl::Now() at its first call and runs with the steady clock from then on. A moment that the
// outside states in system time (gRPC's deadlines) is converted where it comes in.
//
// Thread safety: any thread.
#ifndef PARALLAX_ENGINE_BASE_STEADY_TIME_H_
#define PARALLAX_ENGINE_BASE_STEADY_TIME_H_

#include "absl/time/time.h"

namespace parallax {

absl::Time SteadyNow();

/// The moment that is as far from SteadyNow() as `system` is from absl::Now(), now.
absl::Time SteadyFromSystem(absl::Time system);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_BASE_STEADY_TIME_H_
