#include "engine/output_processor.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace parallax {
namespace {

LiveRequest* LiveRequestOf(const SequenceGroup& group) {
  return static_cast<LiveRequest*>(group.owner);
}

bool Contains(std::span<const int32_t> ids, int32_t token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

// Fills `out` with the most likely tokens of a row; `entry` says where they stand in `result`.
template <typename Entry>
void CopyTop(const Entry& entry, const StepResult& result, std::vector<TokenLogprob>* out) {
  out->reserve(entry.top_count);
  for (int32_t i = entry.top_begin; i < entry.top_begin + entry.top_count; ++i) {
    out->push_back({.token = result.top_ids[i], .logprob = result.top_logprobs[i]});
  }
}

PositionLogprobs Unscored(int32_t token) {
  PositionLogprobs position;
  position.chosen = {.token = token, .logprob = std::numeric_limits<float>::quiet_NaN()};
  return position;
}

std::shared_ptr<const Logprobs> TakePromptLogprobs(LiveRequest* live) {
  if (live->prompt_logprobs.empty()) return nullptr;
  return std::make_shared<const Logprobs>(std::move(live->prompt_logprobs));
}

std::shared_ptr<const Logprobs> UnscoredPrompt(std::span<const int32_t> prompt) {
  auto logprobs = std::make_shared<Logprobs>();
  logprobs->reserve(prompt.size());
  for (const int32_t token : prompt) logprobs->push_back(Unscored(token));
  return logprobs;
}

// Null if the prompt is not to be echoed.
std::shared_ptr<const Echo> TakeEcho(LiveRequest* live,
                                     std::shared_ptr<const Logprobs> prompt_logprobs) {
  const Request& request = live->group->request;
  if (!request.sampling.echo) return nullptr;
  auto echo = std::make_shared<Echo>();
  echo->text = std::move(live->echo_text);
  echo->token_ids = request.prompt;
  if (!request.sampling.logprobs.has_value()) return echo;
  const bool scored = prompt_logprobs != nullptr;
  echo->logprobs = scored ? std::move(prompt_logprobs) : UnscoredPrompt(request.prompt);
  return echo;
}

}  // namespace

OutputProcessor::OutputProcessor(std::vector<int32_t> eos_token_ids, Scheduler* scheduler,
                                 EngineObserver* observer)
    : eos_token_ids_(std::move(eos_token_ids)), scheduler_(scheduler), observer_(observer) {}

int32_t OutputProcessor::Process(const ScheduledBatch& batch, const StepResult& result,
                                 absl::Time now) {
  ProcessPromptLogprobs(batch, result, now);
  int32_t kept = 0;
  for (size_t i = 0; i < batch.samples.size(); ++i) {
    kept += KeepToken(batch.samples[i].sequence, result.samples[i], result, now) ? 1 : 0;
  }
  return kept;
}

int32_t OutputProcessor::Refuse(const ScheduledBatch& batch, const absl::Status& refusal,
                                absl::Time now) {
  const std::string what =
      absl::StrCat("the backend refused the step: ", absl::string_view(refusal.message()));
  for (const ScheduledSequence& entry : batch.sequences) {
    LiveRequest* const live = LiveRequestOf(*entry.sequence->group);
    if (live != nullptr) Fail(live, what, now);
  }
  return 0;
}

void OutputProcessor::ProcessPromptLogprobs(const ScheduledBatch& batch, const StepResult& result,
                                            absl::Time now) {
  if (result.prompt_logprobs.empty()) return;
  size_t row = 0;
  for (const ScheduledSequence& entry : batch.sequences) {
    const size_t first_row = row;
    row += entry.num_targets;
    LiveRequest* const live = LiveRequestOf(*entry.sequence->group);
    if (entry.num_targets == 0 || live == nullptr || live->ended) continue;
    live->PreparePromptLogprobs();
    for (int32_t i = 0; i < entry.num_targets && !live->ended; ++i) {
      const PromptLogprob& scored = result.prompt_logprobs[first_row + i];
      if (scored.nan_logits) {
        Fail(live, "the model produced NaN logits for a prompt token", now);
        break;
      }
      PositionLogprobs& position = live->prompt_logprobs[entry.first_target + i];
      position.chosen.logprob = scored.logprob;
      CopyTop(scored, result, &position.top);
    }
  }
}

bool OutputProcessor::KeepToken(Sequence* sequence, const SampledToken& sample,
                                const StepResult& result, absl::Time now) {
  if (sequence->state == SequenceState::kFinished) return false;
  LiveRequest* const live = LiveRequestOf(*sequence->group);
  if (sample.nan_logits) {
    Fail(live, "the model produced NaN logits", now);
    return false;
  }
  if (sample.no_token_left) {  // what the request asked for; what the model wrote is good
    End(live, FinishReason::kError,
        absl::InvalidArgumentError("min_tokens: every token is held back as a stop"), now);
    return false;
  }
  if (!live->started) Start(live, now);
  Choice* const choice = &live->choices[sequence->choice];
  const SamplingParams& params = sequence->group->request.sampling;
  scheduler_->AppendToken(sequence, sample.token);
  CountToken(choice, now);

  OutputDelta delta;
  delta.choice = sequence->choice;
  delta.token_ids.push_back(sample.token);
  if (params.logprobs.has_value()) {
    PositionLogprobs& position = delta.logprobs.emplace_back();
    position.chosen = {.token = sample.token, .logprob = sample.logprob};
    CopyTop(sample, result, &position.top);
  }
  ChoiceFinish finish;
  if (DetectStop(live, choice, sample.token, &delta, &finish)) {
    FinishChoice(live, choice, std::move(finish), std::move(delta), now);
  } else {
    live->sink->OnDelta(std::move(delta));
  }
  return true;
}

// The prompt is processed: the first token of the request (of all choices) is there.
void OutputProcessor::Start(LiveRequest* live, absl::Time now) {
  live->started = true;
  live->PreparePromptLogprobs();  // of a prompt of one token no position is scored
  observer_->OnStarted(live->Timings(live->choices.front(), now));
  const SequenceGroup& group = *live->group;
  std::shared_ptr<const Logprobs> prompt_logprobs = TakePromptLogprobs(live);
  live->sink->OnStart({.prompt_tokens = static_cast<int32_t>(group.request.prompt.size()),
                       .cached_tokens = group.cached_tokens,
                       .prompt_logprobs = prompt_logprobs,
                       .echo = TakeEcho(live, prompt_logprobs)});
}

void OutputProcessor::CountToken(Choice* choice, absl::Time now) {
  if (choice->first_token == absl::InfiniteFuture()) {
    choice->first_token = now;
  } else {
    observer_->OnInterTokenLatency(now - choice->last_token);
  }
  choice->last_token = now;
}

bool OutputProcessor::IsStopToken(const SamplingParams& params, int32_t token) const {
  if (!params.ignore_eos && Contains(eos_token_ids_, token)) return true;
  return Contains(params.stop_token_ids, token);
}

// Appends the token's text to `delta`; true if the choice ends with it, then `finish` says how.
bool OutputProcessor::DetectStop(LiveRequest* live, Choice* choice, int32_t token,
                                 OutputDelta* delta, ChoiceFinish* finish) {
  const SamplingParams& params = live->group->request.sampling;
  const int32_t generated = choice->sequence->num_generated();
  const bool may_stop = generated > params.min_tokens;
  if (may_stop && IsStopToken(params, token)) {
    finish->reason = FinishReason::kStop;
    finish->matched_stop_token = token;
    if (params.include_stop) choice->text.Append(token, /*match_stops=*/false, &delta->text);
    choice->text.Flush(&delta->text);
    return true;
  }
  const std::optional<size_t> stop = choice->text.Append(token, may_stop, &delta->text);
  if (stop.has_value()) {
    finish->reason = FinishReason::kStop;
    finish->matched_stop_string = params.stop_strings[*stop];
    return true;
  }
  if (generated < params.max_tokens) return false;
  finish->reason = FinishReason::kLength;
  choice->text.Flush(&delta->text);
  return true;
}

void OutputProcessor::FinishChoice(LiveRequest* live, Choice* choice, ChoiceFinish finish,
                                   OutputDelta delta, absl::Time now) {
  const SequenceGroup& group = *live->group;
  finish.prompt_tokens = static_cast<int32_t>(group.request.prompt.size());
  finish.cached_tokens = group.cached_tokens;
  finish.completion_tokens = choice->sequence->num_generated();
  finish.timings = live->Timings(*choice, now);
  choice->finished = true;
  live->reason = std::max(live->reason, finish.reason);
  delta.finish = std::move(finish);
  live->sink->OnDelta(std::move(delta));
  if (choice->sequence->state != SequenceState::kFinished) scheduler_->Finish(choice->sequence);
  if (--live->unfinished == 0) NoteEnded(live, absl::OkStatus());
}

void OutputProcessor::End(LiveRequest* live, FinishReason reason, absl::Status status,
                          absl::Time now) {
  if (live->ended) return;
  scheduler_->FinishGroup(live->group);
  for (Choice& choice : live->choices) {
    if (choice.finished) continue;
    OutputDelta delta;
    delta.choice = choice.sequence->choice;
    choice.text.Flush(&delta.text);
    ChoiceFinish finish;
    finish.reason = reason;
    FinishChoice(live, &choice, std::move(finish), std::move(delta), now);
  }
  live->status = std::move(status);
}

void OutputProcessor::Fail(LiveRequest* live, std::string_view what, absl::Time now) {
  if (live->ended) return;
  scheduler_->FinishGroupUncached(live->group);
  End(live, FinishReason::kError,
      absl::InternalError(absl::StrCat(absl::string_view(what.data(), what.size()),
                                       " in request \"", live->id, "\"")),
      now);
}

void OutputProcessor::NoteEnded(LiveRequest* live, absl::Status status) {
  live->ended = true;
  live->status = std::move(status);
  ended_.push_back(live);
}

}  // namespace parallax
