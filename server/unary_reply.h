// UnaryReply: the answer of a call that needs no engine but may be large; one of the open calls
// until its client has taken it.
//
// Thread safety: gRPC's; no state that changes.
#ifndef PARALLAX_SERVER_UNARY_REPLY_H_
#define PARALLAX_SERVER_UNARY_REPLY_H_

#include <memory>
#include <utility>

#include "grpcpp/support/server_callback.h"
#include "server/open_calls.h"

namespace parallax::server {

class UnaryReply final : public grpc::ServerUnaryReactor {
 public:
  /// Answers with the response as it stands. `open_calls` outlives the call.
  UnaryReply(grpc::Status status, OpenCalls* open_calls, grpc::CallbackServerContext* context)
      : open_calls_(*open_calls), call_(open_calls->Open(context)) {
    open_calls_.AwaitReader(call_.get());
    Finish(std::move(status));
  }

  void OnDone() override {
    open_calls_.Close(call_.get());
    delete this;  // gRPC's idiom: it holds the only pointer
  }

 private:
  OpenCalls& open_calls_;
  const std::shared_ptr<OpenCalls::Call> call_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_UNARY_REPLY_H_
