// BothSides: what the client and the server counted of one run, side by side.
//
// Of the whole run, warm-up included, because a server's counters know no window. The client's
// TTFT counts from when a request was sent: of its being late the server knows nothing. What the
// client cancelled it never learns the usage of, so the server's tokens are then more.
//
// Thread safety: stateless.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_BOTH_SIDES_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_BOTH_SIDES_H_

#include <string>

#include "bench/server/loadgen/recorder.h"
#include "bench/server/loadgen/server_metrics.h"
#include "nlohmann/json.hpp"

namespace parallax::loadgen {

/// {"requests": {"client": n, "server": n}, "prompt_tokens": .., "output_tokens": ..,
/// "mean_ttft_ms": ..}. Calls of others to the same server are counted with it.
nlohmann::json BothSidesJson(const Tally& tally, const MetricSamples& server_delta);

/// Lines of a table, from that JSON: both figures, and "equal" or who has how much more.
std::string BothSidesTable(const nlohmann::json& both_sides);

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_BOTH_SIDES_H_
