#include "engine/live_request.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace parallax {

LiveRequest::LiveRequest(Request r, std::shared_ptr<TokenSink> s, const Tokenizer* tokenizer,
                         absl::Time now)
    : id(std::move(r.id)),
      principal(std::move(r.principal)),
      sink(std::move(s)),
      submitted(std::min(now, r.arrival)),
      prompt_tokens(static_cast<int32_t>(r.prompt.size())),
      request(std::move(r)),
      unfinished(request.sampling.n) {
  // Built once and copied: the copies share the stop strings' automaton.
  const ChoiceText text(tokenizer, request, &echo_text);
  choices.assign(request.sampling.n, Choice{.text = text});
}

void LiveRequest::PreparePromptLogprobs() {
  if (!group->wants_prompt_logprobs() || !prompt_logprobs.empty()) return;
  const std::vector<int32_t>& prompt = group->request.prompt;
  prompt_logprobs.resize(prompt.size());
  for (size_t i = 0; i < prompt.size(); ++i) {
    prompt_logprobs[i].chosen = {.token = prompt[i],
                                 .logprob = std::numeric_limits<float>::quiet_NaN()};
  }
}

RequestTimings LiveRequest::Timings(const Choice& choice, absl::Time now) const {
  const absl::Time scheduled = group->first_scheduled;
  if (scheduled == absl::InfiniteFuture()) return {.queue = now - submitted};
  if (choice.first_token == absl::InfiniteFuture()) {
    return {.queue = scheduled - submitted, .prefill = now - scheduled};
  }
  return {.queue = scheduled - submitted,
          .prefill = choice.first_token - scheduled,
          .decode = choice.last_token - choice.first_token};
}

FinishedRequest LiveRequest::Summary(absl::Time now) const {
  FinishedRequest summary{.reason = reason,
                          .code = status.code(),
                          .prompt_tokens = static_cast<int32_t>(group->request.prompt.size()),
                          .cached_tokens = group->cached_tokens,
                          .num_choices = static_cast<int32_t>(choices.size()),
                          .first_token_seen = started,
                          .e2e_latency = now - submitted};
  summary.timings = Timings(choices.front(), now);
  for (const Choice& choice : choices) {
    summary.completion_tokens += choice.sequence->num_generated();
    summary.timings.decode = std::max(summary.timings.decode, Timings(choice, now).decode);
  }
  return summary;
}

}  // namespace parallax
