// The weights of a decoder, packed for the backend, under one set of names.
//
// LoadDecoderWeights reads the tensors that tensor_layout.h lists and refuses those that are
// missing, extra or mis-shaped, by name. Two kinds of extra tensors are accepted unread, as
// Hugging Face does: rotary inv_freq buffers and, when embeddings are tied, a copy of them as
// lm_head.weight.
//
// Thread safety: immutable after loading.
// Errors: NOT_FOUND and INVALID_ARGUMENT naming the tensor; RESOURCE_EXHAUSTED when packing
// runs out of memory.
#ifndef PARALLAX_ENGINE_MODELS_WEIGHTS_H_
#define PARALLAX_ENGINE_MODELS_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/models/model_config.h"
#include "engine/models/tensor_source.h"
#include "kernels/packed_weight.h"
#include "kernels/stream.h"

namespace parallax {

// Which part of the model this process holds. Tensor parallelism is a seam: only {0, 1} loads.
struct ShardSpec {
  int rank = 0;
  int world_size = 1;
};

struct LinearWeights {
  kernels::PackedWeight weight;  // [outputs, inputs]
  std::vector<float> bias;       // [outputs], or empty
};

struct DecoderLayerWeights {
  std::vector<float> input_norm;  // [hidden]
  LinearWeights qrkv;             // [q_rows + r_rows + 2 kv_rows, hidden]
  std::vector<float> q_norm;      // [head_dim] each, or empty without qk_norm
  std::vector<float> r_norm;
  std::vector<float> k_norm;
  LinearWeights o;                         // [hidden, q_rows]
  std::vector<float> post_attention_norm;  // [hidden]
  LinearWeights gate_up;                   // [2 * intermediate, hidden]
  LinearWeights down;                      // [hidden, intermediate]
};

struct DecoderWeights {
  HostTensor embedding;  // [vocab, hidden], as stored
  std::vector<DecoderLayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  LinearWeights lm_head;          // [vocab, hidden]; a packed copy when tied

  int64_t num_parameters = 0;  // of the checkpoint: a tied embedding counts once
  int64_t weight_bytes = 0;    // of memory: packed weights, the embedding table and norms
  std::string dtype;           // of the linear layers: "bfloat16", ..., or "mixed"
};

absl::StatusOr<std::unique_ptr<const DecoderWeights>> LoadDecoderWeights(
    const ModelConfig& config, TensorSource& source, const ShardSpec& shard,
    const kernels::Stream& stream);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_WEIGHTS_H_
