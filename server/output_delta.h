// Arithmetic on the engine's OutputDelta, shared by the stream's outbox and the unary
// collector.
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_SERVER_OUTPUT_DELTA_H_
#define PARALLAX_SERVER_OUTPUT_DELTA_H_

#include <cstddef>

#include "engine/token_sink.h"

namespace parallax::server {

/// Output of one message stops growing here: far below gRPC's 4 MiB default limit.
inline constexpr size_t kMaxChunkBytes = size_t{256} << 10;

/// Bytes of what `start` tells of the prompt to a request of `num_choices`.
size_t PromptBytes(const RequestStart& start, size_t num_choices);

/// Bytes of output in the delta: its text, token ids and log-probabilities. What holds them
/// is not counted, since merged deltas share it.
size_t DeltaBytes(const OutputDelta& delta);
size_t LogprobsBytes(const PositionLogprobs& position);

/// Appends `from` to `into`. REQUIRES: same choice, and `into` has no finish.
void MergeDelta(OutputDelta from, OutputDelta* into);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_OUTPUT_DELTA_H_
