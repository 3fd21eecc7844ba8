// FakeEngine: records what the server asks of an engine; the test plays the engine's thread
// by calling the sinks it was given.
//
// Thread safety: safe.
#ifndef PARALLAX_TESTS_SERVER_FAKE_ENGINE_H_
#define PARALLAX_TESTS_SERVER_FAKE_ENGINE_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"

namespace parallax::server {

class FakeEngine final : public Engine {
 public:
  struct Submitted {
    Request request;
    std::shared_ptr<TokenSink> sink;
  };

  FakeEngine() {
    limits_.vocab_size = 1000;
    limits_.max_context_tokens = 256;
    model_.name = "fake";
  }

  // ---- What the test does. ----

  /// Waits for the next submission.
  Submitted AwaitSubmitted() {
    MutexLock lock(&mutex_);
    while (submitted_.empty()) changed_.Wait(&mutex_);
    Submitted first = std::move(submitted_.front());
    submitted_.erase(submitted_.begin());
    return first;
  }
  /// Waits until the request was cancelled or aborted, and returns with which status.
  absl::Status AwaitCancelled(const std::string& id) {
    MutexLock lock(&mutex_);
    while (!cancelled_.contains(id)) changed_.Wait(&mutex_);
    return cancelled_[id];
  }
  /// Ends a request as the engine does: forgotten first, told second.
  void End(const Submitted& submitted, absl::Status status) {
    {
      MutexLock lock(&mutex_);
      live_.erase(submitted.request.id);
      if (live_.empty()) changed_.NotifyAll();
    }
    submitted.sink->OnDone(std::move(status));
  }
  void RefuseNext(absl::Status status) {
    MutexLock lock(&mutex_);
    refusal_ = std::move(status);
  }
  void SetStats(EngineStats stats) {
    MutexLock lock(&mutex_);
    stats_ = std::move(stats);
  }

  // ---- Engine. ----

  absl::Status Submit(Request request, std::shared_ptr<TokenSink> sink) override {
    MutexLock lock(&mutex_);
    if (!refusal_.ok()) return std::exchange(refusal_, absl::OkStatus());
    if (stats_.draining) return absl::UnavailableError("draining");
    if (!live_.emplace(request.id, Live{request.principal, sink.get()}).second) {
      return absl::AlreadyExistsError("request_id: live");
    }
    submitted_.push_back({std::move(request), std::move(sink)});
    changed_.NotifyAll();
    return absl::OkStatus();
  }
  void Cancel(std::string_view request_id, const TokenSink& sink, absl::Status status) override {
    MutexLock lock(&mutex_);
    const auto live = live_.find(std::string(request_id));
    if (live == live_.end() || live->second.sink != &sink) return;
    CancelLocked(live->first, std::move(status));
  }
  bool Abort(std::string_view request_id, std::string_view principal,
             absl::Status status) override {
    MutexLock lock(&mutex_);
    const auto live = live_.find(std::string(request_id));
    if (live == live_.end() || live->second.principal != principal) return false;
    CancelLocked(live->first, std::move(status));
    return true;
  }
  void BeginDrain() override {
    MutexLock lock(&mutex_);
    stats_.draining = true;
  }
  bool AwaitDrained(absl::Time deadline) override {
    const auto steady =
        std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(deadline - absl::Now());
    MutexLock lock(&mutex_);
    while (!live_.empty()) {
      if (!changed_.WaitUntil(&mutex_, steady)) return live_.empty();
    }
    return true;
  }
  void AbortAll(absl::Status status) override {
    MutexLock lock(&mutex_);
    for (const auto& [id, live] : live_) CancelLocked(id, status);
  }
  int32_t FlushPrefixCache() override { return 17; }
  EngineStats Stats() const override {
    MutexLock lock(&mutex_);
    return stats_;
  }
  const RunnerLimits& limits() const override { return limits_; }
  const ModelDescription& model() const override { return model_; }

 private:
  struct Live {
    std::string principal;
    const TokenSink* sink;
  };

  void CancelLocked(const std::string& id, absl::Status status) PARALLAX_REQUIRES(mutex_) {
    cancelled_.emplace(id, std::move(status));
    changed_.NotifyAll();
  }

  RunnerLimits limits_;
  ModelDescription model_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Submitted> submitted_ PARALLAX_GUARDED_BY(mutex_);
  std::map<std::string, Live> live_ PARALLAX_GUARDED_BY(mutex_);  // by id
  std::map<std::string, absl::Status> cancelled_ PARALLAX_GUARDED_BY(mutex_);
  absl::Status refusal_ PARALLAX_GUARDED_BY(mutex_);
  EngineStats stats_ PARALLAX_GUARDED_BY(mutex_);
};

}  // namespace parallax::server

#endif  // PARALLAX_TESTS_SERVER_FAKE_ENGINE_H_
