// ChunkEncoder: the Encoder (generate_reactor.h) of the project's own stream, whose messages
// are the outbox's chunks as they are.
//
// Thread safety: none; the owning reactor's mutex guards it.
#ifndef PARALLAX_SERVER_CHUNK_ENCODER_H_
#define PARALLAX_SERVER_CHUNK_ENCODER_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "parallax/v1/inference.pb.h"

namespace parallax::server {

class ChunkEncoder {
 public:
  using Message = v1::GenerateChunk;

  explicit ChunkEncoder(const Request& request) : request_id_(request.id) {}

  void OnStart(const RequestStart&) {}

  absl::Status Add(v1::GenerateChunk* chunk) {
    chunk_.Swap(chunk);
    has_chunk_ = true;
    return absl::OkStatus();
  }

  bool Next(Message* message) {
    if (!std::exchange(has_chunk_, false)) return false;
    message->Swap(&chunk_);
    message->set_request_id(std::exchange(request_id_, {}));  // on the first chunk only
    return true;
  }

  bool empty() const { return !has_chunk_; }
  void Clear() { has_chunk_ = false; }

 private:
  std::string request_id_;  // until sent
  v1::GenerateChunk chunk_;
  bool has_chunk_ = false;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CHUNK_ENCODER_H_
