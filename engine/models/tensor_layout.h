// Which tensors of a checkpoint make up a decoder, by name and shape, for every backend's loader.
//
// Both checkpoint conventions map to one description:
//   Hugging Face  model.embed_tokens, model.layers.N.{input_layernorm, self_attn.*,
//                 post_attention_layernorm, mlp.*}, model.norm, lm_head
//   fla           model.embeddings, model.layers.N.{attn_norm, attn.*, mlp_norm, mlp.*},
//                 model.norm, lm_head
// Projections that read the same input are one matrix, rows in the order given: q, r, k, v and
// gate, up.
//
// Thread safety: pure functions over plain data.
#ifndef PARALLAX_ENGINE_MODELS_TENSOR_LAYOUT_H_
#define PARALLAX_ENGINE_MODELS_TENSOR_LAYOUT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/models/model_config.h"

namespace parallax {

/// One of the projections that are packed together.
struct ProjectionLayout {
  std::string name;  // without ".weight" / ".bias"
  int64_t outputs;
};

struct LinearLayout {
  std::vector<ProjectionLayout> parts;
  int64_t inputs = 0;
  bool bias = false;

  int64_t outputs() const {
    int64_t sum = 0;
    for (const ProjectionLayout& part : parts) sum += part.outputs;
    return sum;
  }
};

struct VectorLayout {
  std::string name;  // empty: the model has none
  int64_t size = 0;
};

struct LayerLayout {
  VectorLayout input_norm;
  LinearLayout qrkv;
  VectorLayout q_norm, r_norm, k_norm;
  LinearLayout o;
  VectorLayout post_attention_norm;
  LinearLayout gate_up;
  LinearLayout down;
  std::vector<std::string> ignored;  // may be there; never read
};

struct OuterLayout {
  std::string embedding;  // with ".weight": [vocab, hidden]
  VectorLayout final_norm;
  std::optional<LinearLayout> lm_head;  // none: the embedding serves as head
  std::vector<std::string> ignored;
};

LayerLayout LayerTensors(const ModelConfig& config, int64_t layer);
OuterLayout OuterTensors(const ModelConfig& config);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_TENSOR_LAYOUT_H_
