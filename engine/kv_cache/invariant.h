// CheckInvariant: the end of the road when a page, reference or state is not what the code
// guarantees. Going on would hand one request's keys to another, so the process aborts with
// the broken rule on stderr. Never for input or load: those get an absl::Status.
//
// Thread safety: safe from any thread.
#ifndef PARALLAX_ENGINE_KV_CACHE_INVARIANT_H_
#define PARALLAX_ENGINE_KV_CACHE_INVARIANT_H_

#include <cstdio>
#include <cstdlib>

namespace parallax {

[[noreturn]] inline void InvariantBroken(const char* rule) {
  std::fprintf(stderr, "invariant broken: %s\n", rule);
  std::abort();
}

inline void CheckInvariant(bool holds, const char* rule) {
  if (!holds) [[unlikely]] {
    InvariantBroken(rule);
  }
}

}  // namespace parallax

#endif  // PARALLAX_ENGINE_KV_CACHE_INVARIANT_H_
