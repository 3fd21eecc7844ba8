// VllmEncoder: the Encoder (generate_reactor.h) of VllmEngine.Generate: from the outbox's chunks
// to GenerateResponse messages.
//
//   with `stream`   a chunk with the new tokens each time; then, once a choice, its complete
//   without         once a choice, its complete, with everything
//
// A complete holds all token ids of its choice, so they are kept: at most max_tokens a choice.
// Without `stream` log-probabilities are kept too; together they are bounded by
// max_response_bytes, as the unary Generate's reply is.
//
// Thread safety: none; the owning reactor's mutex guards it.
#ifndef PARALLAX_SERVER_VLLM_VLLM_ENCODER_H_
#define PARALLAX_SERVER_VLLM_VLLM_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "parallax/v1/inference.pb.h"
#include "vllm/vllm_engine.pb.h"

namespace parallax::server {

class VllmEncoder {
 public:
  using Message = ::vllm::grpc::engine::GenerateResponse;

  VllmEncoder(const Request& request, bool stream, size_t max_response_bytes);

  void OnStart(const RequestStart& start);
  /// RESOURCE_EXHAUSTED over max_response_bytes. REQUIRES: empty().
  absl::Status Add(v1::GenerateChunk* chunk);
  bool Next(Message* message);
  bool empty() const { return !chunk_.has_value() && !complete_.has_value(); }
  void Clear();

 private:
  struct Choice {
    ::vllm::grpc::engine::GenerateComplete complete;  // so far
    uint32_t completion_tokens = 0;
  };

  void AddStreamed(const v1::GenerateChunk& chunk);
  absl::Status Collect(const v1::GenerateChunk& chunk);
  void Complete(int32_t index, const v1::Finish& finish);

  const bool stream_;
  const size_t max_response_bytes_;
  const uint32_t prompt_tokens_;
  uint32_t cached_tokens_ = 0;
  size_t collected_bytes_ = 0;
  std::vector<Choice> choices_;
  ::vllm::grpc::engine::InputLogProbs prompt_logprobs_;  // without `stream`

  // What Next hands out, in this order.
  std::optional<::vllm::grpc::engine::GenerateStreamChunk> chunk_;
  std::optional<::vllm::grpc::engine::GenerateComplete> complete_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_VLLM_ENCODER_H_
