// RefusedStream: a server-streaming call that is refused before it reaches the engine.
//
// Thread safety: gRPC's; no state.
#ifndef PARALLAX_SERVER_REFUSED_STREAM_H_
#define PARALLAX_SERVER_REFUSED_STREAM_H_

#include <utility>

#include "grpcpp/support/server_callback.h"

namespace parallax::server {

template <typename Message>
class RefusedStream final : public grpc::ServerWriteReactor<Message> {
 public:
  explicit RefusedStream(grpc::Status status) { this->Finish(std::move(status)); }
  void OnDone() override { delete this; }  // gRPC's idiom: it holds the only pointer
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_REFUSED_STREAM_H_
