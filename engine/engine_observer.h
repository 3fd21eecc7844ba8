// EngineObserver: how metrics watch the engine.
//
// Called from the engine thread (OnAccepted and OnRefused from the submitting thread);
// implementations are thread-safe, never block and never call the engine. Each request and each
// token is reported exactly once, whatever way the request ends:
//   sum of OnSubmitted = sum of OnFinished + live requests,
//   sum of FinishedRequest::completion_tokens = sum of StepStats::tokens_generated.
#ifndef PARALLAX_ENGINE_ENGINE_OBSERVER_H_
#define PARALLAX_ENGINE_ENGINE_OBSERVER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/runner/model_runner.h"
#include "engine/token_sink.h"

namespace parallax {

/// One step, after its results were processed.
struct StepStats {
  absl::Duration duration;       // from its launch, or the end of the step before, to collected
  int32_t num_sequences = 0;     // batch size
  int32_t prefill_tokens = 0;    // rows of prompts (and of recomputation)
  int32_t decode_tokens = 0;     // rows of running sequences
  int32_t tokens_generated = 0;  // sampled and kept
  int32_t preemptions = 0;
  int64_t prefix_cache_query_tokens = 0;  // prompt tokens looked up in this step
  int64_t prefix_cache_hit_tokens = 0;    // of those, found
};

/// Levels, read after each step and when the engine falls idle.
struct EngineGauges {
  int32_t requests_running = 0;
  int32_t requests_waiting = 0;
  int32_t pages_total = 0;
  int32_t pages_used = 0;    // referenced by a sequence
  int32_t pages_cached = 0;  // unreferenced, but a prefix hit away
  int64_t probe_state_bytes_total = 0;
  int64_t probe_state_bytes_used = 0;
  DeviceStats device = {};  // all zero without a GPU
};

struct FinishedRequest {
  FinishReason reason = FinishReason::kStop;  // of the request: the worst of its choices'
  absl::StatusCode code = absl::StatusCode::kOk;
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;  // of all choices
  int32_t num_choices = 1;
  bool first_token_seen = false;
  absl::Duration e2e_latency;
  RequestTimings timings = {};  // of the slowest choice
};

class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  /// Submit was OK: the request is live from about now on, however long a step takes until the
  /// engine thread sees it. May come after its other events.
  virtual void OnAccepted() {}
  virtual void OnSubmitted(int32_t prompt_tokens) {}
  virtual void OnRefused(absl::StatusCode code) {}
  /// A request's first token, of any choice. `timings` has the queue's and the prefill's part.
  virtual void OnStarted(const RequestTimings& timings) {}
  /// Time between two consecutive tokens of one choice.
  virtual void OnInterTokenLatency(absl::Duration gap) {}
  virtual void OnStep(const StepStats& stats) {}
  virtual void OnGauges(const EngineGauges& gauges) {}
  virtual void OnFinished(const FinishedRequest& request) {}
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_ENGINE_OBSERVER_H_
