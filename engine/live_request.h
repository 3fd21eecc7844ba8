// LiveRequest: the engine's record of a request, from Submit to OnDone.
//
// Thread safety: built by the submitting thread, handed over through the Inbox, then the
// engine thread's alone. `id`, `principal` and `sink` never change and may be read under the
// Inbox's lock.
#ifndef PARALLAX_ENGINE_LIVE_REQUEST_H_
#define PARALLAX_ENGINE_LIVE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/choice_text.h"
#include "engine/engine_observer.h"
#include "engine/request.h"
#include "engine/scheduler/sequence.h"
#include "engine/token_sink.h"

namespace parallax {

/// One of the request's n choices.
struct Choice {
  Sequence* sequence = nullptr;  // null until taken in
  ChoiceText text;
  bool finished = false;
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time last_token = absl::InfiniteFuture();
};

struct LiveRequest {
  LiveRequest(Request r, std::shared_ptr<TokenSink> s, const Tokenizer* tokenizer, absl::Time now);

  /// Gives `prompt_logprobs` an entry a token, if it was asked for; a request that waits needs
  /// none. No effect the second time. REQUIRES: taken in.
  void PreparePromptLogprobs();

  /// Of `choice`, if it ended at `now`. REQUIRES: taken in.
  RequestTimings Timings(const Choice& choice, absl::Time now) const;
  /// For the observer. REQUIRES: ended.
  FinishedRequest Summary(absl::Time now) const;

  const std::string id;
  const std::string principal;
  const std::shared_ptr<TokenSink> sink;
  const absl::Time submitted;  // arrived at the server, if the request says when
  const int32_t prompt_tokens;
  Request request;        // moved into `group` when the engine thread takes it in
  std::string echo_text;  // the prompt's text, if asked for

  SequenceGroup* group = nullptr;
  std::vector<Choice> choices;
  int32_t unfinished = 0;                           // choices
  bool queued = true;                               // never scheduled
  bool started = false;                             // OnStart was called
  absl::Time timeout_at = absl::InfiniteFuture();   // DeadlineWatch's
  absl::Time hopeless_at = absl::InfiniteFuture();  // DeadlineWatch's
  std::vector<PositionLogprobs> prompt_logprobs;    // by position, filled in as chunks come

  bool ended = false;                         // waits for its OnDone
  FinishReason reason = FinishReason::kStop;  // the worst of its choices'
  absl::Status status;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_LIVE_REQUEST_H_
