// Bare calls: how long gRPC and the network take both ways, with the threads at both ends.
//
// A call that the server answers at once (GetModelInfo) is timed as a stream is: from just before
// its start to the callback that has the answer. It is the least by which a client's TTFT can
// exceed the server's, which begins when the call has arrived and knows nothing of the way back.
//
// Thread safety: stateless.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_BARE_CALL_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_BARE_CALL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/server/loadgen/histogram.h"
#include "grpcpp/channel.h"

namespace parallax::loadgen {

/// One call after the other, over the channels in turn, for at most a second.
absl::StatusOr<Histogram> TimeBareCalls(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                        const std::string& token);

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_BARE_CALL_H_
