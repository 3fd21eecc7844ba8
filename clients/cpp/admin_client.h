// AdminClient: a parallax-server's AdminService, on its admin port.
//
// Thread safety: all methods may be called from any thread, any number at once.
#ifndef PARALLAX_CLIENTS_CPP_ADMIN_CLIENT_H_
#define PARALLAX_CLIENTS_CPP_ADMIN_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <memory>
#include <string>

#include "clients/cpp/call_options.h"
#include "clients/cpp/channel.h"
#include "parallax/v1/admin.grpc.pb.h"

namespace parallax::client {

class AdminClient {
 public:
  /// Errors: INVALID_ARGUMENT (TLS files). Does not wait for the connection.
  static grpc::Status Connect(const ChannelOptions& options, std::unique_ptr<AdminClient>* client);

  /// Blocks up to `timeout` for the running requests to end; zero returns at once.
  grpc::Status Drain(std::chrono::milliseconds timeout, const CallOptions& options,
                     v1::DrainResponse* response);
  grpc::Status Abort(const v1::AbortRequest& request, const CallOptions& options,
                     v1::AbortResponse* response);
  grpc::Status GetStats(const CallOptions& options, v1::GetStatsResponse* response);
  grpc::Status FlushPrefixCache(const CallOptions& options, v1::FlushPrefixCacheResponse* response);

 private:
  AdminClient(std::shared_ptr<grpc::Channel> channel, std::string token);

  const std::string token_;
  const std::unique_ptr<v1::AdminService::Stub> stub_;
};

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_ADMIN_CLIENT_H_
