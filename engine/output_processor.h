// OutputProcessor: from sampled tokens to what the clients see.
//
// For every token of a collected step: append it to its sequence, turn it into text, look
// for the end (EOS, stop token, stop string, length), hand the delta to the request's sink.
// Tokens sampled past the end of a choice are dropped: they reach no output and no count.
// A request with NaN in its logits ends with INTERNAL, and nobody else does; so do the requests
// of a step that the backend refuses to run.
//
// Requests that end here or through End gather in ended(); the engine calls their OnDone
// once the step is completed.
//
// Thread safety: engine thread only.
#ifndef PARALLAX_ENGINE_OUTPUT_PROCESSOR_H_
#define PARALLAX_ENGINE_OUTPUT_PROCESSOR_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine_observer.h"
#include "engine/live_request.h"
#include "engine/runner/forward_batch.h"
#include "engine/scheduler/scheduled_batch.h"
#include "engine/scheduler/scheduler.h"

namespace parallax {

class OutputProcessor {
 public:
  /// `eos_token_ids` end a choice unless its request ignores them.
  OutputProcessor(std::vector<int32_t> eos_token_ids, Scheduler* scheduler,
                  EngineObserver* observer);

  /// Processes a collected step before it is completed. Returns the tokens kept.
  int32_t Process(const ScheduledBatch& batch, const StepResult& result, absl::Time now);

  /// Ends the requests of a step that the backend would not run. Returns the tokens kept: none.
  int32_t Refuse(const ScheduledBatch& batch, const absl::Status& refusal, absl::Time now);

  /// Ends every choice that is not finished with `reason`, and the request with `status`. No
  /// effect on a request that has ended. REQUIRES: the request was taken in.
  void End(LiveRequest* live, FinishReason reason, absl::Status status, absl::Time now);

  /// Requests that ended since the caller last cleared it.
  std::vector<LiveRequest*>& ended() { return ended_; }

 private:
  void ProcessPromptLogprobs(const ScheduledBatch& batch, const StepResult& result, absl::Time now);
  bool KeepToken(Sequence* sequence, const SampledToken& sample, const StepResult& result,
                 absl::Time now);
  void Start(LiveRequest* live, absl::Time now);
  void CountToken(Choice* choice, absl::Time now);
  bool DetectStop(LiveRequest* live, Choice* choice, int32_t token, OutputDelta* delta,
                  ChoiceFinish* finish);
  bool IsStopToken(const SamplingParams& params, int32_t token) const;
  void FinishChoice(LiveRequest* live, Choice* choice, ChoiceFinish finish, OutputDelta delta,
                    absl::Time now);
  void Fail(LiveRequest* live, std::string_view what, absl::Time now);
  void NoteEnded(LiveRequest* live, absl::Status status);

  const std::vector<int32_t> eos_token_ids_;
  Scheduler* const scheduler_;
  EngineObserver* const observer_;
  std::vector<LiveRequest*> ended_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_OUTPUT_PROCESSOR_H_
