// RecordingSink: keeps what a request was sent and checks the order of TokenSink's calls.
//
// Thread safety: all methods may be called from any thread.
#ifndef PARALLAX_TESTS_ENGINE_RECORDING_SINK_H_
#define PARALLAX_TESTS_ENGINE_RECORDING_SINK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/mutex.h"
#include "engine/token_sink.h"

namespace parallax {

/// What a choice's reader sees, the echo included.
struct RecordedChoice {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<PositionLogprobs> logprobs;
  int32_t deltas = 0;
  std::optional<ChoiceFinish> finish;
};

struct Recorded {
  std::optional<RequestStart> start;
  std::vector<RecordedChoice> choices;
  std::optional<absl::Status> done;
  std::string violation;  // empty, or the first call out of order
};

class RecordingSink final : public TokenSink {
 public:
  explicit RecordingSink(int32_t num_choices = 1) { recorded_.choices.resize(num_choices); }

  void OnStart(RequestStart start) override;
  void OnDelta(OutputDelta delta) override;
  void OnDone(absl::Status status) override;

  /// Waits for OnDone.
  Recorded Await();
  /// Waits until choice 0 has this many token ids.
  void AwaitTokens(size_t count);
  Recorded Now() const;

 private:
  void Violate(const char* what) PARALLAX_REQUIRES(mutex_);

  mutable Mutex mutex_;
  CondVar changed_;
  Recorded recorded_ PARALLAX_GUARDED_BY(mutex_);
};

}  // namespace parallax

#endif  // PARALLAX_TESTS_ENGINE_RECORDING_SINK_H_
