#include "bench/server/loadgen/connection_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace parallax::loadgen {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ConnectionPool Pool(int connections, int32_t streams_per_connection) {
  std::vector<std::shared_ptr<grpc::Channel>> channels;  // which nobody uses: nothing connects
  for (int i = 0; i < connections; ++i) {
    channels.push_back(grpc::CreateChannel("127.0.0.1:1", grpc::InsecureChannelCredentials()));
  }
  return ConnectionPool(channels, streams_per_connection);
}

TEST(ConnectionPool, OneConnectionForEvery512StreamsAndFourAtLeast) {
  EXPECT_EQ(DefaultConnections(0), 4);
  EXPECT_EQ(DefaultConnections(1), 4);
  EXPECT_EQ(DefaultConnections(4 * 512), 4);
  EXPECT_EQ(DefaultConnections(4 * 512 + 1), 5);
  EXPECT_EQ(DefaultConnections(10'000), 20);
  EXPECT_EQ(DefaultConnections(0x7fffffff), kMaxConnections);
}

TEST(ConnectionPool, FewStreamsUseAllConnectionsInTurn) {
  ConnectionPool pool = Pool(3, 0);
  for (const size_t expected : {0, 1, 2, 0, 1}) {
    const size_t connection = pool.Take();
    EXPECT_EQ(connection, expected);
    pool.Release(connection);
  }
}

TEST(ConnectionPool, TheConnectionWithTheFewestStreamsIsNext) {
  ConnectionPool pool = Pool(3, 0);
  std::map<size_t, int> streams;
  for (int i = 0; i < 9; ++i) ++streams[pool.Take()];
  EXPECT_THAT(streams,
              testing::ElementsAre(testing::Pair(0, 3), testing::Pair(1, 3), testing::Pair(2, 3)));
  pool.Release(2);
  pool.Release(2);
  pool.Release(1);
  EXPECT_EQ(pool.Take(), 2u);
  EXPECT_NE(pool.Take(), 0u);
  EXPECT_NE(pool.Take(), 0u);
  EXPECT_NE(pool.stub(0), pool.stub(1));
}

TEST(ConnectionPool, RefusesWhatWouldWaitInTheClient) {
  const ConnectionPool pool = Pool(3, 100);
  EXPECT_TRUE(pool.CheckRoom(300).ok());
  const absl::Status status = pool.CheckRoom(301);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("301 streams"), HasSubstr("3 connections"), HasSubstr("100 streams"),
                    HasSubstr(": 1 would wait"), HasSubstr("--connections=4")));
}

TEST(ConnectionPool, AServerThatNamesNoLimitIsTakenAtItsWord) {
  EXPECT_TRUE(Pool(1, 0).CheckRoom(1'000'000).ok());
}

}  // namespace
}  // namespace parallax::loadgen
