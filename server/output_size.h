// How much output is: an upper estimate of its bytes, as they lie in memory and as they will be
// on the wire, by which outboxes, replies and messages are bounded.
//
// `tokenizer` gives the tokens' bytes, which log-probabilities have on the wire (not on the
// gateway's contract's); null: they have none.
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_SERVER_OUTPUT_SIZE_H_
#define PARALLAX_SERVER_OUTPUT_SIZE_H_

#include <cstddef>

#include "engine/sampling_params.h"
#include "engine/token_sink.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax::server {

/// Output of one message stops growing here: far below gRPC's 4 MiB default limit. As protobuf's
/// objects log-probabilities take some ten times that, for every stream that is being written.
inline constexpr size_t kMaxChunkBytes = size_t{64} << 10;
/// A token id is at most that on the wire.
inline constexpr size_t kTokenIdBytes = 5;

size_t LogprobsBytes(const PositionLogprobs& position, const Tokenizer* tokenizer);

/// The text, token ids and log-probabilities of the delta. What holds them is not counted, since
/// merged deltas share it.
size_t DeltaBytes(const OutputDelta& delta, const Tokenizer* tokenizer);

/// Of what `start` tells of the prompt to a request of `num_choices`.
size_t PromptBytes(const RequestStart& start, size_t num_choices, const Tokenizer* tokenizer);

/// The same before the prompt is processed: without its text, and without the tokens' bytes.
size_t LeastPromptBytes(size_t prompt_tokens, const SamplingParams& sampling);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_OUTPUT_SIZE_H_
