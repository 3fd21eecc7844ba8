// ChunkEncoder: the Encoder (generate_reactor.h) of the project's own stream: a message a chunk,
// after those of the prompt.
//
// Thread safety: none; see generate_reactor.h.
#ifndef PARALLAX_SERVER_CHUNK_ENCODER_H_
#define PARALLAX_SERVER_CHUNK_ENCODER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "engine/tokenizer/tokenizer.h"
#include "parallax/v1/inference.pb.h"
#include "server/chunk_outbox.h"
#include "server/prompt_pieces.h"
#include "server/response_builder.h"

namespace parallax::server {

class ChunkEncoder {
 public:
  using Message = v1::GenerateChunk;

  /// `tokenizer` gives the bytes of tokens in log-probabilities; null: none.
  ChunkEncoder(const Request& request, const Tokenizer* tokenizer)
      : request_id_(request.id), num_choices_(request.sampling.n), tokenizer_(tokenizer) {}

  absl::Status Add(OutputChunk chunk) {
    if (chunk.start.has_value()) {
      prompt_ = PromptPieces(*std::move(chunk.start), num_choices_, tokenizer_);
    }
    delta_ = std::move(chunk.delta);
    return absl::OkStatus();
  }

  bool Next(Message* message) {
    if (empty()) return false;
    message->Clear();
    message->set_request_id(std::exchange(request_id_, {}));  // on the first chunk only
    if (!prompt_.empty()) {
      FillPromptPiece(prompt_.Next(), tokenizer_, message);
      if (prompt_.empty()) prompt_ = PromptPieces();  // what it pointed into is free
    } else {
      FillChunk(*std::exchange(delta_, std::nullopt), tokenizer_, message);
    }
    return true;
  }

  bool streams() const { return true; }
  bool empty() const { return prompt_.empty() && !delta_.has_value(); }
  void Clear() {
    prompt_ = PromptPieces();
    delta_.reset();
  }

 private:
  std::string request_id_;  // until sent
  int32_t num_choices_;
  const Tokenizer* tokenizer_;

  // What Next hands out, in this order.
  PromptPieces prompt_;
  std::optional<OutputDelta> delta_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CHUNK_ENCODER_H_
