// CountingObserver: the engine's own tally, for comparison with the clients'.
//
// Thread safety: all methods may be called from any thread.
#ifndef PARALLAX_TESTS_ENGINE_COUNTING_OBSERVER_H_
#define PARALLAX_TESTS_ENGINE_COUNTING_OBSERVER_H_

#include <cstdint>
#include <map>

#include "engine/base/mutex.h"
#include "engine/engine_observer.h"

namespace parallax {

struct ObserverCounts {
  int64_t accepted = 0;
  int64_t submitted = 0;
  int64_t refused = 0;
  int64_t started = 0;
  int64_t finished = 0;
  int64_t inter_token_gaps = 0;
  int64_t prompt_tokens_submitted = 0;
  int64_t prompt_tokens_finished = 0;
  int64_t completion_tokens = 0;
  int64_t tokens_generated = 0;
  int64_t steps = 0;
  absl::Duration step_time;
  std::map<FinishReason, int64_t> reasons;
  std::map<absl::StatusCode, int64_t> codes;
  RequestTimings last_started;
  FinishedRequest last_finished;
  EngineGauges gauges;
};

class CountingObserver final : public EngineObserver {
 public:
  void OnAccepted() override {
    MutexLock lock(&mutex_);
    ++counts_.accepted;
  }
  void OnSubmitted(int32_t prompt_tokens) override {
    MutexLock lock(&mutex_);
    ++counts_.submitted;
    counts_.prompt_tokens_submitted += prompt_tokens;
  }
  void OnRefused(absl::StatusCode) override {
    MutexLock lock(&mutex_);
    ++counts_.refused;
  }
  void OnStarted(const RequestTimings& timings) override {
    MutexLock lock(&mutex_);
    ++counts_.started;
    counts_.last_started = timings;
  }
  void OnInterTokenLatency(absl::Duration) override {
    MutexLock lock(&mutex_);
    ++counts_.inter_token_gaps;
  }
  void OnStep(const StepStats& stats) override {
    MutexLock lock(&mutex_);
    ++counts_.steps;
    counts_.step_time += stats.duration;
    counts_.tokens_generated += stats.tokens_generated;
  }
  void OnGauges(const EngineGauges& gauges) override {
    MutexLock lock(&mutex_);
    counts_.gauges = gauges;
  }
  void OnFinished(const FinishedRequest& request) override {
    MutexLock lock(&mutex_);
    ++counts_.finished;
    ++counts_.reasons[request.reason];
    ++counts_.codes[request.code];
    counts_.prompt_tokens_finished += request.prompt_tokens;
    counts_.completion_tokens += request.completion_tokens;
    counts_.last_finished = request;
  }

  ObserverCounts Counts() const {
    MutexLock lock(&mutex_);
    return counts_;
  }

 private:
  mutable Mutex mutex_;
  ObserverCounts counts_ PARALLAX_GUARDED_BY(mutex_);
};

}  // namespace parallax

#endif  // PARALLAX_TESTS_ENGINE_COUNTING_OBSERVER_H_
