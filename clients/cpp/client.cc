#include "clients/cpp/client.h"

#include <utility>

#include "clients/cpp/unary_call.h"

namespace parallax::client {

grpc::Status Client::Connect(const ChannelOptions& options, std::unique_ptr<Client>* client) {
  std::shared_ptr<grpc::Channel> channel;
  if (auto status = CreateChannel(options, &channel); !status.ok()) return status;
  client->reset(new Client(std::move(channel), options.token));
  return grpc::Status::OK;
}

Client::Client(std::shared_ptr<grpc::Channel> channel, std::string token)
    : channel_(std::move(channel)),
      token_(std::move(token)),
      stub_(v1::InferenceService::NewStub(channel_)) {}

grpc::Status Client::Generate(const v1::GenerateRequest& request, const CallOptions& options,
                              v1::GenerateResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->Generate(context, request, response);
  });
}

grpc::Status Client::GenerateStream(const v1::GenerateRequest& request, const CallOptions& options,
                                    std::function<void(const v1::GenerateChunk&)> on_chunk) {
  // Cancelling a started call would race with the server's answer to it.
  if (options.cancellation != nullptr && options.cancellation->cancelled()) {
    return {grpc::StatusCode::CANCELLED, "cancelled"};
  }
  CallOptions uncancellable = options;
  uncancellable.cancellation = nullptr;
  const auto call = StartStream(request, uncancellable, {std::move(on_chunk), nullptr});
  const CancellationScope scope(options.cancellation, [&call] { call->Cancel(); });
  return call->Wait();
}

std::shared_ptr<StreamCall> Client::StartStream(v1::GenerateRequest request,
                                                const CallOptions& options,
                                                StreamCallbacks callbacks) {
  return StreamCall::Start(stub_.get(), token_, std::move(request), options, std::move(callbacks));
}

grpc::Status Client::Tokenize(const v1::TokenizeRequest& request, const CallOptions& options,
                              v1::TokenizeResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->Tokenize(context, request, response);
  });
}

grpc::Status Client::Detokenize(const v1::DetokenizeRequest& request, const CallOptions& options,
                                v1::DetokenizeResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->Detokenize(context, request, response);
  });
}

grpc::Status Client::GetModelInfo(const CallOptions& options, v1::GetModelInfoResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->GetModelInfo(context, {}, response);
  });
}

grpc::Status Client::Abort(const v1::AbortRequest& request, const CallOptions& options,
                           v1::AbortResponse* response) {
  return CallWithRetries(options, token_, [&](grpc::ClientContext* context) {
    return stub_->Abort(context, request, response);
  });
}

}  // namespace parallax::client
