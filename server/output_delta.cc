#include "server/output_delta.h"

#include <iterator>
#include <utility>

namespace parallax::server {

void MergeDelta(OutputDelta from, OutputDelta* into) {
  into->text += from.text;
  into->token_ids.insert(into->token_ids.end(), from.token_ids.begin(), from.token_ids.end());
  into->logprobs.insert(into->logprobs.end(), std::make_move_iterator(from.logprobs.begin()),
                        std::make_move_iterator(from.logprobs.end()));
  into->finish = std::move(from.finish);
}

}  // namespace parallax::server
