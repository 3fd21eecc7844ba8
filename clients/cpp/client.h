// Client: a parallax-server's InferenceService and health, from C++.
//
//   std::unique_ptr<Client> client;
//   grpc::Status status = Client::Connect({.target = "127.0.0.1:50051"}, &client);
//   v1::GenerateRequest request;
//   request.set_text("Once upon a time");
//   status = client->GenerateStream(request, {}, [](const v1::GenerateChunk& chunk) {
//     std::cout << chunk.text() << std::flush;
//   });
//
// Requests and responses are the messages of proto/parallax/v1/inference.proto. Calls are
// retried as clients/cpp/retry.h says; errors are the status codes of the contract.
//
// Thread safety: all methods may be called from any thread, any number at once.
#ifndef PARALLAX_CLIENTS_CPP_CLIENT_H_
#define PARALLAX_CLIENTS_CPP_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>

#include "clients/cpp/call_options.h"
#include "clients/cpp/channel.h"
#include "clients/cpp/stream_call.h"
#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::client {

class Client {
 public:
  /// Errors: INVALID_ARGUMENT (TLS files). Does not wait for the connection.
  static grpc::Status Connect(const ChannelOptions& options, std::unique_ptr<Client>* client);

  grpc::Status Generate(const v1::GenerateRequest& request, const CallOptions& options,
                        v1::GenerateResponse* response);

  /// Blocks until the stream has ended. `on_chunk` runs on another thread.
  grpc::Status GenerateStream(const v1::GenerateRequest& request, const CallOptions& options,
                              std::function<void(const v1::GenerateChunk&)> on_chunk);

  /// Does not block. `options.cancellation` must be null: cancel through the result.
  /// The client outlives the call.
  std::shared_ptr<StreamCall> StartStream(v1::GenerateRequest request, const CallOptions& options,
                                          StreamCallbacks callbacks);

  grpc::Status Tokenize(const v1::TokenizeRequest& request, const CallOptions& options,
                        v1::TokenizeResponse* response);
  grpc::Status Detokenize(const v1::DetokenizeRequest& request, const CallOptions& options,
                          v1::DetokenizeResponse* response);
  grpc::Status GetModelInfo(const CallOptions& options, v1::GetModelInfoResponse* response);
  grpc::Status Abort(const v1::AbortRequest& request, const CallOptions& options,
                     v1::AbortResponse* response);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  Client(std::shared_ptr<grpc::Channel> channel, std::string token);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::string token_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CLIENT_H_
