// Request: one accepted call, as the engine sees it. Plain data.
#ifndef PARALLAX_ENGINE_REQUEST_H_
#define PARALLAX_ENGINE_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/sampling_params.h"

namespace parallax {

struct Request {
  /// Unique among live requests; never empty.
  std::string id;
  /// Who submitted it; only the same principal (or an administrator) may abort it.
  std::string principal;
  /// Token ids, at least one, all valid for the model.
  std::vector<int32_t> prompt;
  /// The prompt ends where text starts: the first token's leading space is dropped.
  bool prompt_is_empty_text = false;
  SamplingParams sampling;

  /// Lower is sooner; FCFS within one value.
  static constexpr int32_t kMinPriority = -100;
  static constexpr int32_t kMaxPriority = 100;
  int32_t priority = 0;
  /// Prefix-cache salt: requests of different tenants never share pages.
  std::string tenant;
  /// Seam: low-rank adapter; only 0 (the base model) is accepted now.
  int32_t adapter_id = 0;

  // Moments are on the clock of SteadyNow (engine/base/steady_time.h).
  /// When the call reached the server. Latencies count from here, or from the submission if that
  /// is earlier.
  absl::Time arrival = absl::InfiniteFuture();
  /// The caller's deadline: past it the request ends with DEADLINE_EXCEEDED.
  absl::Time deadline = absl::InfiniteFuture();
  /// A softer one, from the arrival: past it the partial text is returned with finish
  /// reason deadline.
  absl::Duration timeout = absl::InfiniteDuration();
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_REQUEST_H_
