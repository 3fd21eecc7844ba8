// ChunkEncoder: the Encoder (generate_reactor.h) of the project's own stream: a message a chunk.
//
// Thread safety: none; the owning reactor's mutex guards it.
#ifndef PARALLAX_SERVER_CHUNK_ENCODER_H_
#define PARALLAX_SERVER_CHUNK_ENCODER_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "engine/tokenizer/tokenizer.h"
#include "parallax/v1/inference.pb.h"
#include "server/chunk_outbox.h"
#include "server/response_builder.h"

namespace parallax::server {

class ChunkEncoder {
 public:
  using Message = v1::GenerateChunk;

  /// `tokenizer` gives the bytes of tokens in log-probabilities; null: none.
  ChunkEncoder(const Request& request, const Tokenizer* tokenizer)
      : request_id_(request.id), tokenizer_(tokenizer) {}

  void OnStart(const RequestStart&) {}

  absl::Status Add(OutputChunk chunk) {
    chunk_ = std::move(chunk);
    return absl::OkStatus();
  }

  bool Next(Message* message) {
    if (!chunk_.has_value()) return false;
    message->Clear();
    message->set_request_id(std::exchange(request_id_, {}));  // on the first chunk only
    if (!chunk_->prompt_logprobs.empty()) {
      AppendLogprobs(chunk_->prompt_logprobs, tokenizer_, message->mutable_prompt_logprobs());
    } else {
      FillChunk(std::move(chunk_->delta), tokenizer_, message);
    }
    chunk_.reset();
    return true;
  }

  bool streams() const { return true; }
  bool empty() const { return !chunk_.has_value(); }
  void Clear() { chunk_.reset(); }

 private:
  std::string request_id_;  // until sent
  const Tokenizer* tokenizer_;
  std::optional<OutputChunk> chunk_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CHUNK_ENCODER_H_
