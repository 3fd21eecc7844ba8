#include "bench/server/loadgen/connection_pool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace parallax::loadgen {
namespace {

constexpr int32_t kStreamsPerConnection = 512;
constexpr int32_t kFewestConnections = 4;

int32_t DivideUp(int32_t dividend, int32_t divisor) {
  return static_cast<int32_t>((int64_t{dividend} + divisor - 1) / divisor);
}

}  // namespace

int32_t DefaultConnections(int32_t concurrency) {
  return std::clamp(DivideUp(concurrency, kStreamsPerConnection), kFewestConnections,
                    kMaxConnections);
}

ConnectionPool::ConnectionPool(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                               int32_t streams_per_connection)
    : streams_per_connection_(streams_per_connection) {
  for (const std::shared_ptr<grpc::Channel>& channel : channels) {
    connections_.push_back({.stub = std::make_unique<StreamStub>(channel)});
  }
}

absl::Status ConnectionPool::CheckRoom(int32_t streams) const {
  const auto connections = static_cast<int64_t>(connections_.size());
  const int64_t room = connections * streams_per_connection_;
  if (streams_per_connection_ <= 0 || streams <= room) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      streams, " streams at once over ", connections, " connections, of which the server takes ",
      streams_per_connection_, " streams each: ", streams - room,
      " would wait in the load generator, and the server be charged for it. Use --connections=",
      DivideUp(streams, streams_per_connection_), " or more"));
}

size_t ConnectionPool::Take() {
  size_t fewest = next_;
  for (size_t i = 1; i < connections_.size(); ++i) {
    const size_t candidate = (next_ + i) % connections_.size();
    if (connections_[candidate].streams < connections_[fewest].streams) fewest = candidate;
  }
  ++connections_[fewest].streams;
  next_ = (fewest + 1) % connections_.size();
  return fewest;
}

void ConnectionPool::Release(size_t connection) { --connections_[connection].streams; }

}  // namespace parallax::loadgen
