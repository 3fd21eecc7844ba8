#include "engine/models/tensor_layout.h"

#include "absl/strings/str_cat.h"

namespace parallax {
namespace {

// How a convention names what differs between them.
struct TensorNames {
  const char* embedding;
  const char* attention;  // within a layer
  const char* input_norm;
  const char* post_attention_norm;
};

const TensorNames& NamesOf(CheckpointConvention convention) {
  static constexpr TensorNames kHuggingFaceNames = {"model.embed_tokens", "self_attn",
                                                    "input_layernorm", "post_attention_layernorm"};
  static constexpr TensorNames kFlaNames = {"model.embeddings", "attn", "attn_norm", "mlp_norm"};
  return convention == CheckpointConvention::kFla ? kFlaNames : kHuggingFaceNames;
}

}  // namespace

LayerLayout LayerTensors(const ModelConfig& config, int64_t layer) {
  const TensorNames& names = NamesOf(config.convention);
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = absl::StrCat(prefix, names.attention, ".");
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;

  LayerLayout tensors;
  tensors.input_norm = {absl::StrCat(prefix, names.input_norm, ".weight"), hidden};
  tensors.qrkv = {{{attention + "q_proj", config.q_rows()}}, hidden, config.qkv_bias};
  if (config.has_probe) tensors.qrkv.parts.push_back({attention + "r_proj", config.r_rows()});
  tensors.qrkv.parts.push_back({attention + "k_proj", config.kv_rows()});
  tensors.qrkv.parts.push_back({attention + "v_proj", config.kv_rows()});
  if (config.qk_norm) {
    tensors.q_norm = {attention + "q_norm.weight", config.head_dim};
    tensors.k_norm = {attention + "k_norm.weight", config.head_dim};
    if (config.has_probe) tensors.r_norm = {attention + "r_norm.weight", config.head_dim};
  }
  tensors.o = {{{attention + "o_proj", hidden}}, config.q_rows(), config.o_bias};
  tensors.post_attention_norm = {absl::StrCat(prefix, names.post_attention_norm, ".weight"),
                                 hidden};
  tensors.gate_up = {
      {{prefix + "mlp.gate_proj", intermediate}, {prefix + "mlp.up_proj", intermediate}},
      hidden,
      config.mlp_bias};
  tensors.down = {{{prefix + "mlp.down_proj", hidden}}, intermediate, config.mlp_bias};
  // Written by old versions of transformers; the rotation is computed from config.json.
  tensors.ignored = {attention + "rotary_emb.inv_freq", attention + "rotary.inv_freq"};
  return tensors;
}

OuterLayout OuterTensors(const ModelConfig& config) {
  OuterLayout tensors;
  tensors.embedding = absl::StrCat(NamesOf(config.convention).embedding, ".weight");
  tensors.final_norm = {"model.norm.weight", config.hidden_size};
  tensors.ignored = {"model.rotary_emb.inv_freq"};
  if (config.tie_word_embeddings) {
    tensors.ignored.push_back("lm_head.weight");
  } else {
    tensors.lm_head = LinearLayout{{{"lm_head", config.vocab_size}}, config.hidden_size, false};
  }
  return tensors;
}

}  // namespace parallax
