// ServedModel: what the front end knows of the model behind the engine.
//
// Thread safety: const after start.
#ifndef PARALLAX_SERVER_SERVED_MODEL_H_
#define PARALLAX_SERVER_SERVED_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampling_params.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/vllm/kv_event_log.h"
#include "server/vllm/tokenizer_archive.h"

namespace parallax::server {

struct ServedModel {
  std::string name;                      // as clients name it
  const Tokenizer* tokenizer = nullptr;  // null: token ids only
  int32_t vocab_size = 0;                // logits columns
  int32_t max_context_tokens = 0;        // prompt plus output
  /// Of these fields the defaults of a request: temperature, top_k, top_p, min_p and
  /// repetition_penalty; the model's generation_config.json may set them.
  SamplingParams default_sampling;
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;
  std::shared_ptr<const TokenizerArchive> tokenizer_archive;  // null: the model has no tokenizer
  std::shared_ptr<KvEventLog> kv_events;                      // null: not asked for
};

/// What a caller may ask for, besides the ranges of the contract.
struct RequestLimits {
  int32_t max_prompt_tokens = 0;  // >= 1
  int32_t max_choices = 1;
  /// Of a reply that is no stream, and of what a request asks to be told of its prompt.
  size_t max_response_bytes = size_t{64} << 20;
  int32_t max_concurrent_streams = 0;  // of one connection
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_SERVED_MODEL_H_
