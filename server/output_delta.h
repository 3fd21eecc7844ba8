// Arithmetic on the engine's OutputDelta, shared by the stream's outbox and the unary
// collector.
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_SERVER_OUTPUT_DELTA_H_
#define PARALLAX_SERVER_OUTPUT_DELTA_H_

#include "engine/token_sink.h"

namespace parallax::server {

/// Appends `from` to `into`. REQUIRES: same choice, and `into` has no finish.
void MergeDelta(OutputDelta from, OutputDelta* into);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_OUTPUT_DELTA_H_
