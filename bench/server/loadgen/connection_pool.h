// ConnectionPool: the HTTP/2 connections of a run, and which of them takes the next stream.
//
// A server takes so many streams of a connection at once. gRPC keeps further ones back inside the
// client until others end, and would let the server be charged for their wait. So every stream
// goes to the connection that has the fewest, and a load that needs more room than there is is
// refused.
//
// Thread safety: none.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_CONNECTION_POOL_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_CONNECTION_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "bench/server/loadgen/stream.h"
#include "grpcpp/channel.h"

namespace parallax::loadgen {

inline constexpr int32_t kMaxConnections = 1024;

/// How many connections a closed loop of this many streams gets when nobody says: one for every
/// 512 streams, half of what a server takes by default. An open loop's (0 streams): four.
int32_t DefaultConnections(int32_t concurrency);

class ConnectionPool {
 public:
  /// `streams_per_connection` is the server's limit; 0: it did not say.
  ConnectionPool(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                 int32_t streams_per_connection);

  /// FAILED_PRECONDITION if some of so many streams at once would wait inside the client.
  absl::Status CheckRoom(int32_t streams) const;

  /// The connection that has the fewest streams; it has one more from now on.
  size_t Take();
  void Release(size_t connection);

  StreamStub* stub(size_t connection) const { return connections_[connection].stub.get(); }

 private:
  struct Connection {
    std::unique_ptr<StreamStub> stub;
    int32_t streams = 0;
  };

  const int32_t streams_per_connection_;
  std::vector<Connection> connections_;
  size_t next_ = 0;  // where the search begins, so that a few streams use all connections in turn
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_CONNECTION_POOL_H_
