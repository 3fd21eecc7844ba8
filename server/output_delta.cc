#include "server/output_delta.h"

#include <iterator>
#include <utility>

namespace parallax::server {

size_t LogprobsBytes(const PositionLogprobs& position) {
  return sizeof(position) + position.top.size() * sizeof(TokenLogprob);
}

size_t DeltaBytes(const OutputDelta& delta) {
  size_t bytes = delta.text.size() + delta.token_ids.size() * sizeof(int32_t);
  for (const PositionLogprobs& position : delta.logprobs) bytes += LogprobsBytes(position);
  return bytes;
}

size_t PromptBytes(const RequestStart& start, size_t num_choices) {
  const auto logprobs_bytes = [](const Logprobs* logprobs) {
    size_t bytes = 0;
    if (logprobs == nullptr) return bytes;
    for (const PositionLogprobs& position : *logprobs) bytes += LogprobsBytes(position);
    return bytes;
  };
  const size_t bytes = logprobs_bytes(start.prompt_logprobs.get());
  if (start.echo == nullptr) return bytes;
  const Echo& echo = *start.echo;
  return bytes + num_choices * (echo.text.size() + echo.token_ids.size() * sizeof(int32_t) +
                                logprobs_bytes(echo.logprobs.get()));
}

void MergeDelta(OutputDelta from, OutputDelta* into) {
  into->text += from.text;
  into->token_ids.insert(into->token_ids.end(), from.token_ids.begin(), from.token_ids.end());
  into->logprobs.insert(into->logprobs.end(), std::make_move_iterator(from.logprobs.begin()),
                        std::make_move_iterator(from.logprobs.end()));
  into->finish = std::move(from.finish);
}

}  // namespace parallax::server
