#include "engine/base/steady_time.h"

#include <chrono>

#include "absl/time/clock.h"

namespace parallax {
namespace {

struct Anchor {
  absl::Time system = absl::Now();
  std::chrono::steady_clock::time_point steady = std::chrono::steady_clock::now();
};

}  // namespace

absl::Time SteadyNow() {
  static const Anchor anchor;
  return anchor.system + absl::FromChrono(std::chrono::steady_clock::now() - anchor.steady);
}

absl::Time SteadyFromSystem(absl::Time system) { return SteadyNow() + (system - absl::Now()); }

}  // namespace parallax
