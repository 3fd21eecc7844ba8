#include "clients/cpp/admin_client.h"

#include <utility>

#include "clients/cpp/unary_call.h"

namespace parallax::client {

grpc::Status AdminClient::Connect(const ChannelOptions& options,
                                  std::unique_ptr<AdminClient>* client) {
  std::shared_ptr<grpc::Channel> channel;
  if (auto status = CreateChannel(options, &channel); !status.ok()) return status;
  client->reset(new AdminClient(std::move(channel), options.token));
  return grpc::Status::OK;
}

AdminClient::AdminClient(std::shared_ptr<grpc::Channel> channel, std::string token)
    : token_(std::move(token)), stub_(v1::AdminService::NewStub(std::move(channel))) {}

grpc::Status AdminClient::Drain(std::chrono::milliseconds timeout, const CallOptions& options,
                                v1::DrainResponse* response) {
  v1::DrainRequest request;
  request.set_timeout_ms(timeout.count());
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->Drain(context, request, response);
  });
}

grpc::Status AdminClient::Abort(const v1::AbortRequest& request, const CallOptions& options,
                                v1::AbortResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->Abort(context, request, response);
  });
}

grpc::Status AdminClient::GetStats(const CallOptions& options, v1::GetStatsResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->GetStats(context, {}, response);
  });
}

grpc::Status AdminClient::FlushPrefixCache(const CallOptions& options,
                                           v1::FlushPrefixCacheResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->FlushPrefixCache(context, {}, response);
  });
}

}  // namespace parallax::client
