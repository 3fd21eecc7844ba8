// What a checkpoint's config.json says about the model, in one form for every convention.
//
// Four architectures are understood (field names and defaults as their Hugging Face
// implementations have them):
//   ParallaxQwen3ForCausalLM   Qwen3 plus a probe projection r          (Hugging Face names)
//   ParallaxForCausalLM        flash-linear-attention's Parallax model  (fla names)
//   Qwen3ForCausalLM, LlamaForCausalLM   softmax models: the same engine, probe switched off
//
// Nothing is accepted and ignored: an option that would change the mathematics and is not
// implemented is refused with its name and value.
//
// Thread safety: plain data. Errors: INVALID_ARGUMENT naming the field and the value.
#ifndef PARALLAX_ENGINE_MODELS_MODEL_CONFIG_H_
#define PARALLAX_ENGINE_MODELS_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace parallax {

// How the checkpoint names its tensors.
enum class CheckpointConvention { kHuggingFace, kFla };

enum class RopeScaling { kNone, kLinear, kLlama3 };

// Rotary position embedding over the whole head, half-split ("neox") pairing.
struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;                              // kLinear, kLlama3
  double low_freq_factor = 1.0;                     // kLlama3
  double high_freq_factor = 4.0;                    // kLlama3
  int64_t original_max_position_embeddings = 8192;  // kLlama3
};

struct ModelConfig {
  std::string architecture;  // as config.json states it
  CheckpointConvention convention = CheckpointConvention::kHuggingFace;
  bool has_probe = false;  // false: softmax attention, no r projection

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;     // query (and probe) heads
  int64_t num_kv_heads = 0;  // divides num_heads
  int64_t head_dim = 0;
  int64_t intermediate_size = 0;
  int64_t max_position_embeddings = 0;  // 0: the checkpoint states no limit

  float rms_norm_eps = 1e-6f;
  bool qk_norm = false;       // per-head RMSNorm of q, r and k
  float qk_norm_eps = 1e-6f;  // fla uses 1e-5 whatever norm_eps says
  bool qkv_bias = false;      // biases of the q, r, k and v projections
  bool o_bias = false;        // bias of the attention output projection
  bool mlp_bias = false;      // biases of gate, up and down
  bool tie_word_embeddings = false;
  RopeConfig rope;

  // Per layer: 0 = full causal attention, else position i sees i-window+1 .. i.
  std::vector<int32_t> layer_windows;

  std::vector<int32_t> eos_token_ids;  // empty when config.json names none
  std::optional<int32_t> bos_token_id;

  // Rows of the fused query/probe/key/value projection, in this order: q, r, k, v.
  int64_t q_rows() const { return num_heads * head_dim; }
  int64_t r_rows() const { return has_probe ? q_rows() : 0; }
  int64_t kv_rows() const { return num_kv_heads * head_dim; }
  int64_t qrkv_rows() const { return q_rows() + r_rows() + 2 * kv_rows(); }
};

// Parses the text of a config.json. Pure: touches no file.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text);

// Sampling defaults and stop tokens from generation_config.json. Unset = the file is silent.
struct GenerationDefaults {
  std::optional<float> temperature;  // 0 when the file says do_sample: false
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int32_t> top_k;
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;
};

// Parses the text of a generation_config.json. Token ids must be below `vocab_size`.
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(std::string_view json_text,
                                                           int64_t vocab_size);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_MODEL_CONFIG_H_
