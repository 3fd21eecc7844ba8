#include "engine/models/model_config.h"

#include <array>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "engine/models/json_reader.h"

namespace parallax {

using nlohmann::json;

namespace {

// Ranges that every real model is far inside of. They keep each product of two dimensions, and
// the sum over layers, far from overflowing 64 bits.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxHidden = 1 << 18;
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxPositions = 1 << 28;
constexpr int64_t kMaxWindow = 1 << 28;

struct Architecture {
  const char* name;
  CheckpointConvention convention;
  bool has_probe;
  bool qwen3;  // else Llama (or fla, which has its own reader)
};

constexpr std::array<Architecture, 4> kArchitectures = {{
    {"ParallaxQwen3ForCausalLM", CheckpointConvention::kHuggingFace, true, true},
    {"ParallaxForCausalLM", CheckpointConvention::kFla, true, false},
    {"Qwen3ForCausalLM", CheckpointConvention::kHuggingFace, false, true},
    {"LlamaForCausalLM", CheckpointConvention::kHuggingFace, false, false},
}};

// Options that other architectures or newer libraries define and that would change the result.
// Absent, null, false, 0 and the neutral value are fine; anything else is refused by name.
struct UnsupportedOption {
  const char* field;
  double neutral;
};

constexpr std::array<UnsupportedOption, 22> kUnsupportedOptions = {{
    {"attnres_block_size", 0},     {"quantization_config", 0},
    {"compression_config", 0},     {"num_experts", 0},
    {"num_local_experts", 0},      {"num_experts_per_tok", 0},
    {"moe_intermediate_size", 0},  {"partial_rotary_factor", 1},
    {"rope_interleaved", 0},       {"logit_scale", 1},
    {"logits_scaling", 1},         {"final_logit_softcapping", 0},
    {"attn_logit_softcapping", 0}, {"query_pre_attn_scalar", 0},
    {"attention_multiplier", 1},   {"embedding_multiplier", 1},
    {"residual_multiplier", 1},    {"embedding_size", 0},
    {"cross_attention_layers", 0}, {"add_cross_attention", 0},
    {"is_encoder_decoder", 0},     {"num_nextn_predict_layers", 0},
}};

bool IsNeutral(const json& value, double neutral) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0 || value.get<double>() == neutral;
  return (value.is_array() || value.is_object()) && value.empty();
}

void RefuseUnsupportedOptions(ObjectReader& reader) {
  for (const UnsupportedOption& option : kUnsupportedOptions) {
    const json* value = reader.Find(option.field);
    if (value != nullptr && !IsNeutral(*value, option.neutral)) {
      reader.Refuse(option.field, "not supported");
    }
  }
}

std::string KnownArchitectures() {
  std::string names;
  for (const Architecture& known : kArchitectures) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", known.name);
  }
  return names;
}

// The architecture that config.json names, or null after a refusal.
const Architecture* ReadArchitecture(ObjectReader& reader) {
  const json* list = reader.Find("architectures");
  if (list == nullptr) {
    // fla writes no architectures before the first save_pretrained of a model.
    if (reader.String("model_type", "") == "parallax") return &kArchitectures[1];
    reader.Fail(absl::StrCat("architectures is missing; known: ", KnownArchitectures()));
    return nullptr;
  }
  if (list->is_array() && list->size() == 1 && list->front().is_string()) {
    const std::string name = list->front().get<std::string>();
    for (const Architecture& known : kArchitectures) {
      if (name == known.name) return &known;
    }
  }
  reader.Refuse("architectures", absl::StrCat("not supported; known: ", KnownArchitectures()));
  return nullptr;
}

void ReadRopeScaling(const json& scaling, const char* field, ObjectReader& outer,
                     RopeConfig& rope) {
  if (!scaling.is_object()) {
    outer.Refuse(field, "must be an object");
    return;
  }
  ObjectReader reader(scaling, absl::StrCat("config.json: ", field, "."));
  const char* type_field = reader.Has("rope_type") ? "rope_type" : "type";
  const std::string type = reader.String(type_field, "default");
  rope.theta = reader.Number("rope_theta", 1.0, 1e12, rope.theta);
  const double partial = reader.Number("partial_rotary_factor", 0.0, 1.0, 1.0);
  if (partial != 1.0) reader.Refuse("partial_rotary_factor", "not supported");
  for (const char* per_layer_type : {"full_attention", "sliding_attention"}) {
    if (reader.Has(per_layer_type)) reader.Refuse(per_layer_type, "not supported");
  }
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    if (!reader.Has("factor")) reader.Fail("factor is missing");
    rope.factor = reader.Number("factor", 1.0, 1e6, 1.0);
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    for (const char* needed :
         {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
      if (!reader.Has(needed)) reader.Fail(absl::StrCat(needed, " is missing"));
    }
    rope.factor = reader.Number("factor", 1.0, 1e6, 1.0);
    rope.low_freq_factor = reader.Number("low_freq_factor", 1e-3, 1e6, 1.0);
    rope.high_freq_factor = reader.Number("high_freq_factor", 1e-3, 1e6, 4.0);
    rope.original_max_position_embeddings =
        reader.Integer("original_max_position_embeddings", 1, kMaxPositions, 8192);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      reader.Refuse("high_freq_factor", "must exceed low_freq_factor");
    }
  } else if (type != "default") {
    reader.Refuse(type_field, "not supported; known: default, linear, llama3");
  }
  outer.Adopt(reader);
}

void ReadRope(ObjectReader& reader, RopeConfig& rope) {
  rope.theta = reader.Number("rope_theta", 1.0, 1e12, 10000.0);
  const json* scaling = reader.Find("rope_scaling");
  // transformers 5 renamed rope_scaling and moved rope_theta into it.
  const json* parameters = reader.Find("rope_parameters");
  if (scaling != nullptr && parameters != nullptr && *scaling != *parameters) {
    reader.Refuse("rope_scaling", "contradicts rope_parameters");
    return;
  }
  if (parameters != nullptr) {
    ReadRopeScaling(*parameters, "rope_parameters", reader, rope);
  } else if (scaling != nullptr) {
    ReadRopeScaling(*scaling, "rope_scaling", reader, rope);
  }
}

// Reads one token id or a list of them.
std::vector<int32_t> ReadTokenIds(ObjectReader& reader, const char* field, int64_t vocab_size) {
  std::vector<int32_t> ids;
  const json* value = reader.Find(field);
  if (value == nullptr) return ids;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    // Some configurations write -1 for "none".
    if (!IsIntegerWithin(id, -1, vocab_size - 1)) {
      reader.Refuse(field, absl::StrCat("token ids must be below vocab_size ", vocab_size));
      return {};
    }
    if (id.get<int64_t>() >= 0) ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::optional<int32_t> ReadTokenId(ObjectReader& reader, const char* field, int64_t vocab_size) {
  const std::vector<int32_t> ids = ReadTokenIds(reader, field, vocab_size);
  if (ids.size() > 1) reader.Refuse(field, "must be one token id");
  if (ids.empty()) return std::nullopt;
  return ids.front();
}

void RequireSilu(ObjectReader& reader, const char* fallback) {
  const std::string act = reader.String("hidden_act", fallback);
  if (act != "silu" && act != "swish") reader.Refuse("hidden_act", "must be silu");
}

void SetWindow(ModelConfig& config, std::optional<int64_t> window) {
  config.layer_windows.assign(config.num_layers, static_cast<int32_t>(window.value_or(0)));
}

// Qwen3: layers named "sliding_attention" by layer_types or, without that list, those from
// max_window_layers on, look back sliding_window keys - if use_sliding_window is set.
void ReadQwen3Windows(ObjectReader& reader, ModelConfig& config) {
  const bool enabled = reader.Boolean("use_sliding_window", false);
  const auto sliding_window = reader.OptionalInteger("sliding_window", 1, kMaxWindow);
  const int64_t max_window_layers = reader.Integer("max_window_layers", 0, kMaxLayers, 28);
  const int32_t window = enabled ? static_cast<int32_t>(sliding_window.value_or(0)) : 0;
  if (enabled && !sliding_window) reader.Fail("use_sliding_window needs sliding_window");

  const json* types = reader.Find("layer_types");
  if (types == nullptr) {
    for (int64_t i = max_window_layers; i < config.num_layers; ++i) {
      config.layer_windows[i] = window;
    }
    return;
  }
  if (!types->is_array() || static_cast<int64_t>(types->size()) != config.num_layers) {
    reader.Refuse("layer_types", "must list num_hidden_layers entries");
    return;
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const json& type = (*types)[i];
    if (type == "sliding_attention") {
      if (window == 0) {
        reader.Fail(absl::StrCat("layer_types[", i,
                                 "] = \"sliding_attention\" contradicts use_sliding_window"));
        return;
      }
      config.layer_windows[i] = window;
    } else if (type != "full_attention") {
      reader.Fail(absl::StrCat("layer_types[", i, "] = ", JsonExcerpt(type), ": not supported"));
      return;
    }
  }
}

void ReadHuggingFaceFields(ObjectReader& reader, const Architecture& architecture,
                           ModelConfig& config) {
  config.num_heads = reader.Integer("num_attention_heads", 1, kMaxHeads);
  config.num_kv_heads = reader.Integer("num_key_value_heads", 1, kMaxHeads, config.num_heads);
  config.intermediate_size = reader.Integer("intermediate_size", 1, kMaxIntermediate);
  // Qwen3 defaults to 128 whatever the hidden size; Llama divides the hidden size.
  const int64_t default_head_dim = architecture.qwen3 ? 128 : config.hidden_size / config.num_heads;
  config.head_dim = reader.Integer("head_dim", 1, kMaxHeadDim, default_head_dim);
  config.max_position_embeddings = reader.Integer("max_position_embeddings", 1, kMaxPositions, 0);
  config.rms_norm_eps = static_cast<float>(reader.Number("rms_norm_eps", 0.0, 1.0, 1e-6));
  config.qk_norm = architecture.qwen3;
  config.qk_norm_eps = config.rms_norm_eps;
  config.qkv_bias = reader.Boolean("attention_bias", false);
  config.o_bias = config.qkv_bias;
  config.mlp_bias = reader.Boolean("mlp_bias", false);
  if (config.mlp_bias && architecture.qwen3) reader.Refuse("mlp_bias", "Qwen3 has no MLP biases");
  RequireSilu(reader, "silu");

  const auto window_size = reader.OptionalInteger("window_size", 1, kMaxWindow);
  SetWindow(config, window_size);
  if (architecture.qwen3) {
    if (window_size && reader.Boolean("use_sliding_window", false)) {
      reader.Refuse("window_size", "contradicts use_sliding_window");
    } else if (window_size && reader.Has("layer_types")) {
      reader.Refuse("window_size", "contradicts layer_types");
    } else if (!window_size) {
      ReadQwen3Windows(reader, config);
    }
  } else if (reader.Has("sliding_window")) {
    reader.Refuse("sliding_window", "LlamaForCausalLM has no sliding window");
  }
}

void ReadFlaFields(ObjectReader& reader, ModelConfig& config) {
  config.num_heads = reader.Integer("num_heads", 1, kMaxHeads);
  config.num_kv_heads = reader.Integer("num_kv_heads", 1, kMaxHeads, config.num_heads);
  if (config.hidden_size % config.num_heads != 0) {
    reader.Refuse("num_heads", "must divide hidden_size");
  }
  config.head_dim = config.hidden_size / config.num_heads;
  // The MLP keeps hidden_ratio * hidden^2 weights in its three matrices, rounded up to 256.
  const double ratio = reader.Number("hidden_ratio", 1.0 / 64, 64, 4);
  const int64_t raw = static_cast<int64_t>(static_cast<double>(config.hidden_size) * ratio * 2 / 3);
  config.intermediate_size =
      reader.Integer("intermediate_size", 1, kMaxIntermediate, (raw + 255) / 256 * 256);
  config.max_position_embeddings = reader.Integer("max_position_embeddings", 1, kMaxPositions, 0);
  config.rms_norm_eps = static_cast<float>(reader.Number("norm_eps", 0.0, 1.0, 1e-6));
  config.qk_norm = reader.Boolean("qk_norm", false);
  config.qk_norm_eps = 1e-5f;  // fla's layer leaves RMSNorm at its default
  config.qkv_bias = reader.Boolean("qkv_bias", false);
  RequireSilu(reader, "swish");
  SetWindow(config, reader.OptionalInteger("window_size", 1, kMaxWindow));
}

void CheckGeometry(ObjectReader& reader, const ModelConfig& config) {
  if (config.num_heads % config.num_kv_heads != 0) {
    reader.Fail(absl::StrCat("the number of query heads (", config.num_heads,
                             ") must be a multiple of the number of KV heads (",
                             config.num_kv_heads, ")"));
  }
  if (config.head_dim % 2 != 0 || config.head_dim == 0) {
    reader.Fail(absl::StrCat("head_dim = ", config.head_dim, ": must be even and positive"));
  }
  if (config.intermediate_size > kMaxIntermediate) {
    reader.Fail(absl::StrCat("intermediate_size = ", config.intermediate_size, ": too large"));
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text) {
  const absl::StatusOr<json> root = ParseJsonObject(json_text, "config.json");
  if (!root.ok()) return root.status();
  ObjectReader reader(*root, "config.json: ");
  const Architecture* architecture = ReadArchitecture(reader);
  if (architecture == nullptr) return reader.status();

  ModelConfig config;
  config.architecture = architecture->name;
  config.convention = architecture->convention;
  config.has_probe = architecture->has_probe;
  config.vocab_size = reader.Integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = reader.Integer("hidden_size", 1, kMaxHidden);
  config.num_layers = reader.Integer("num_hidden_layers", 1, kMaxLayers);
  config.tie_word_embeddings = reader.Boolean("tie_word_embeddings", false);
  if (architecture->convention == CheckpointConvention::kFla) {
    ReadFlaFields(reader, config);
  } else {
    ReadHuggingFaceFields(reader, *architecture, config);
  }
  ReadRope(reader, config.rope);
  RefuseUnsupportedOptions(reader);
  CheckGeometry(reader, config);
  config.eos_token_ids = ReadTokenIds(reader, "eos_token_id", config.vocab_size);
  config.bos_token_id = ReadTokenId(reader, "bos_token_id", config.vocab_size);
  if (!reader.status().ok()) return reader.status();
  return config;
}

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(std::string_view json_text,
                                                           int64_t vocab_size) {
  const absl::StatusOr<json> root = ParseJsonObject(json_text, "generation_config.json");
  if (!root.ok()) return root.status();
  ObjectReader reader(*root, "generation_config.json: ");
  const auto number = [&reader](const char* field, double low, double high) {
    const std::optional<double> value = reader.OptionalNumber(field, low, high);
    return value ? std::optional<float>(static_cast<float>(*value)) : std::nullopt;
  };
  GenerationDefaults defaults;
  defaults.temperature = number("temperature", 0, 100);
  if (!reader.Boolean("do_sample", true)) defaults.temperature = 0.0f;
  defaults.top_p = number("top_p", 0, 1);
  if (defaults.top_p == 0.0f) reader.Refuse("top_p", "must be above 0");
  defaults.min_p = number("min_p", 0, 1);
  defaults.repetition_penalty = number("repetition_penalty", 1e-3, 10);
  if (const auto top_k = reader.OptionalInteger("top_k", 0, INT32_MAX)) {
    defaults.top_k = static_cast<int32_t>(*top_k);
  }
  defaults.eos_token_ids = ReadTokenIds(reader, "eos_token_id", vocab_size);
  defaults.bos_token_id = ReadTokenId(reader, "bos_token_id", vocab_size);
  if (!reader.status().ok()) return reader.status();
  return defaults;
}

}  // namespace parallax
