// VllmEncoder: the Encoder (generate_reactor.h) of VllmEngine.Generate: from the outbox's chunks
// to GenerateResponse messages.
//
//   with `stream`   a chunk with the new tokens each time; then, once a choice, its complete with
//                   all its token ids, but without the log-probabilities, which the chunks had
//   without         once a choice, its complete, with everything
//
// Token ids are kept either way, at most the context's length of them a choice. Without `stream`
// they and the log-probabilities are bounded by max_response_bytes, as the unary Generate's reply is.
//
// Thread safety: none; see generate_reactor.h.
#ifndef PARALLAX_SERVER_VLLM_VLLM_ENCODER_H_
#define PARALLAX_SERVER_VLLM_VLLM_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "server/chunk_outbox.h"
#include "server/prompt_pieces.h"
#include "vllm/vllm_engine.pb.h"

namespace parallax::server {

class VllmEncoder {
 public:
  using Message = ::vllm::grpc::engine::GenerateResponse;

  VllmEncoder(const Request& request, bool stream, size_t max_response_bytes);

  /// RESOURCE_EXHAUSTED over max_response_bytes. REQUIRES: empty().
  absl::Status Add(OutputChunk chunk);
  bool Next(Message* message);
  bool streams() const { return stream_; }
  bool empty() const { return prompt_.empty() && !chunk_.has_value() && !finish_.has_value(); }
  void Clear();

 private:
  struct Choice {
    uint32_t completion_tokens = 0;
    ::vllm::grpc::engine::GenerateComplete complete;  // so far
  };

  absl::Status Collect(const OutputChunk& chunk);
  void FillHead(int32_t choice, ::vllm::grpc::engine::GenerateStreamChunk* out) const;
  void WritePrompt(::vllm::grpc::engine::GenerateStreamChunk* out);
  void WriteChunk(::vllm::grpc::engine::GenerateStreamChunk* out);
  void WriteComplete(::vllm::grpc::engine::GenerateComplete* out);

  const bool stream_;
  const size_t max_response_bytes_;
  const uint32_t prompt_tokens_;
  uint32_t cached_tokens_ = 0;
  size_t collected_bytes_ = 0;
  std::vector<Choice> choices_;
  ::vllm::grpc::engine::InputLogProbs prompt_logprobs_;  // without `stream`

  // What Next hands out, in this order.
  PromptPieces prompt_;
  std::optional<OutputDelta> chunk_;
  std::optional<OutputDelta> finish_;  // a choice's last delta, when its chunk has gone out
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_VLLM_ENCODER_H_
