#include "tests/engine/models/checkpoint_writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>

#include "gtest/gtest.h"

namespace parallax::testing {

using nlohmann::json;

namespace {

bool IsFla(const CheckpointSpec& spec) { return spec.architecture == "ParallaxForCausalLM"; }

uint16_t ToBFloat16Bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

uint16_t ToFloat16Bits(double value) {
  const int exponent = std::max(value == 0 ? -14 : std::ilogb(value), -14);
  const auto units =
      static_cast<uint32_t>(std::nearbyint(std::ldexp(std::fabs(value), 10 - exponent)));
  const uint32_t magnitude = (static_cast<uint32_t>(exponent + 14) << 10) + units;
  return static_cast<uint16_t>(magnitude | (value < 0 ? 0x8000u : 0u));
}

double Float16Value(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int mantissa = bits & 0x3ff;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double RoundTo(const std::string& dtype, double value) {
  if (dtype == "F32") return static_cast<float>(value);
  if (dtype == "F16") return Float16Value(ToFloat16Bits(value));
  return std::bit_cast<float>(uint32_t{ToBFloat16Bits(static_cast<float>(value))} << 16);
}

template <typename T>
void AppendBytes(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Encode(const std::string& dtype, const std::vector<double>& values) {
  std::string bytes;
  for (const double value : values) {
    if (dtype == "F32") {
      AppendBytes(bytes, static_cast<float>(value));
    } else if (dtype == "F16") {
      AppendBytes(bytes, ToFloat16Bits(value));
    } else {
      AppendBytes(bytes, ToBFloat16Bits(static_cast<float>(value)));
    }
  }
  return bytes;
}

void ReplaceIn(std::string& text, const std::string& from, const std::string& to) {
  if (const size_t at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
}

std::string FlaName(std::string name) {
  ReplaceIn(name, "embed_tokens", "embeddings");
  ReplaceIn(name, "self_attn.", "attn.");
  ReplaceIn(name, "input_layernorm", "attn_norm");
  ReplaceIn(name, "post_attention_layernorm", "mlp_norm");
  return name;
}

class TensorMaker {
 public:
  explicit TensorMaker(const CheckpointSpec& spec) : spec_(spec), random_(spec.seed) {}

  ReferenceModel::Tensors Make() {
    const ReferenceShape& s = spec_.shape;
    Matrix("model.embed_tokens.weight", s.vocab, s.hidden, 1.0);
    for (int layer = 0; layer < s.layers; ++layer) Layer("model.layers." + std::to_string(layer));
    Norm("model.norm.weight", s.hidden);
    if (!s.tied) Linear("lm_head", s.vocab, s.hidden, 1.0, false);
    return std::move(tensors_);
  }

 private:
  void Layer(const std::string& prefix) {
    const ReferenceShape& s = spec_.shape;
    const std::string attention = prefix + ".self_attn.";
    Norm(prefix + ".input_layernorm.weight", s.hidden);
    Norm(prefix + ".post_attention_layernorm.weight", s.hidden);
    Linear(attention + "q_proj", s.heads * s.head_dim, s.hidden, 1.0, s.qkv_bias);
    if (s.probe) Linear(attention + "r_proj", s.heads * s.head_dim, s.hidden, 0.5, s.qkv_bias);
    Linear(attention + "k_proj", s.kv_heads * s.head_dim, s.hidden, 1.0, s.qkv_bias);
    Linear(attention + "v_proj", s.kv_heads * s.head_dim, s.hidden, 1.0, s.qkv_bias);
    Linear(attention + "o_proj", s.hidden, s.heads * s.head_dim, 1.0, s.o_bias);
    if (s.qk_norm) {
      Norm(attention + "q_norm.weight", s.head_dim);
      Norm(attention + "k_norm.weight", s.head_dim);
      if (s.probe) Norm(attention + "r_norm.weight", s.head_dim);
    }
    Linear(prefix + ".mlp.gate_proj", s.intermediate, s.hidden, 1.0, s.mlp_bias);
    Linear(prefix + ".mlp.up_proj", s.intermediate, s.hidden, 1.0, s.mlp_bias);
    Linear(prefix + ".mlp.down_proj", s.hidden, s.intermediate, 1.0, s.mlp_bias);
  }

  void Linear(const std::string& name, int rows, int columns, double gain, bool bias) {
    Matrix(name + ".weight", rows, columns, gain / std::sqrt(columns));
    if (bias) Matrix(name + ".bias", 1, rows, 0.2);
  }

  void Norm(const std::string& name, int size) {
    ReferenceTensor& tensor = Matrix(name, 1, size, 0.1);
    for (double& value : tensor.values) value = RoundTo(spec_.dtype, 1 + value);
  }

  ReferenceTensor& Matrix(const std::string& name, int rows, int columns, double deviation) {
    ReferenceTensor& tensor = tensors_[name];
    tensor.rows = rows;
    tensor.columns = columns;
    std::normal_distribution<double> normal(0, deviation);
    for (int64_t i = 0; i < int64_t{rows} * columns; ++i) {
      tensor.values.push_back(RoundTo(spec_.dtype, normal(random_)));
    }
    return tensor;
  }

  const CheckpointSpec& spec_;
  std::mt19937_64 random_;
  ReferenceModel::Tensors tensors_;
};

void AddRope(const ReferenceShape& s, json& config) {
  config["rope_theta"] = s.rope_theta;
  if (s.rope == ReferenceRope::kLinear) {
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", s.rope_factor}};
  } else if (s.rope == ReferenceRope::kLlama3) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", s.rope_factor},
                              {"low_freq_factor", s.rope_low},
                              {"high_freq_factor", s.rope_high},
                              {"original_max_position_embeddings", int(s.rope_original)}};
  }
}

void AddWindows(const CheckpointSpec& spec, json& config) {
  const std::vector<int>& windows = spec.shape.windows;
  const auto [least, most] = std::minmax_element(windows.begin(), windows.end());
  if (*most == 0) return;
  if (*least == *most) {
    config["window_size"] = *most;
    return;
  }
  config["use_sliding_window"] = true;
  config["sliding_window"] = *most;
  for (const int window : windows) {
    config["layer_types"].push_back(window > 0 ? "sliding_attention" : "full_attention");
  }
}

}  // namespace

TempFolder::TempFolder() {
  std::string name = ::testing::TempDir() + "/parallax_XXXXXX";
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
  path_ = name;
}

TempFolder::~TempFolder() { std::filesystem::remove_all(path_); }

CheckpointSpec TinySpec(const std::string& architecture) {
  CheckpointSpec spec;
  spec.architecture = architecture;
  ReferenceShape& s = spec.shape;
  s.vocab = 97;
  s.hidden = 128;
  s.layers = 2;
  s.heads = 2;
  s.kv_heads = 1;
  s.head_dim = 64;
  s.intermediate = 80;
  s.probe = architecture.starts_with("Parallax");
  s.qk_norm = architecture != "LlamaForCausalLM";
  s.qk_norm_eps = IsFla(spec) ? 1e-5 : s.norm_eps;
  s.windows.assign(s.layers, 0);
  return spec;
}

ReferenceModel::Tensors MakeTensors(const CheckpointSpec& spec) { return TensorMaker(spec).Make(); }

RawTensors ToRawTensors(const CheckpointSpec& spec, const ReferenceModel::Tensors& tensors) {
  RawTensors raw;
  for (const auto& [name, tensor] : tensors) {
    RawTensor& out = raw[IsFla(spec) ? FlaName(name) : name];
    out.dtype = spec.dtype;
    const bool matrix = name.find("norm") == std::string::npos && !name.ends_with(".bias");
    out.shape = matrix ? std::vector<int64_t>{tensor.rows, tensor.columns}
                       : std::vector<int64_t>{tensor.columns};
    out.bytes = Encode(spec.dtype, tensor.values);
  }
  return raw;
}

json MakeConfig(const CheckpointSpec& spec) {
  const ReferenceShape& s = spec.shape;
  json config = {{"architectures", {spec.architecture}},
                 {"vocab_size", s.vocab},
                 {"hidden_size", s.hidden},
                 {"num_hidden_layers", s.layers},
                 {"intermediate_size", s.intermediate},
                 {"max_position_embeddings", 4096},
                 {"tie_word_embeddings", s.tied}};
  if (IsFla(spec)) {
    config["model_type"] = "parallax";
    config["num_heads"] = s.heads;
    config["num_kv_heads"] = s.kv_heads;
    config["norm_eps"] = s.norm_eps;
    config["qk_norm"] = s.qk_norm;
    config["qkv_bias"] = s.qkv_bias;
    config["hidden_act"] = "swish";
  } else {
    config["num_attention_heads"] = s.heads;
    config["num_key_value_heads"] = s.kv_heads;
    config["head_dim"] = s.head_dim;
    config["rms_norm_eps"] = s.norm_eps;
    config["attention_bias"] = s.qkv_bias;
    config["mlp_bias"] = s.mlp_bias;
    config["hidden_act"] = "silu";
  }
  AddRope(s, config);
  AddWindows(spec, config);
  return config;
}

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes;
  AppendBytes(bytes, static_cast<uint64_t>(header.size()));
  return bytes + header + data;
}

std::string SafetensorsBytes(const RawTensors& tensors) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return SafetensorsBytes(header.dump(), data);
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

void WriteCheckpoint(const CheckpointSpec& spec, const RawTensors& tensors,
                     const std::string& folder) {
  WriteFile(folder + "/config.json", MakeConfig(spec).dump(2));
  if (spec.num_shards == 1) {
    WriteFile(folder + "/model.safetensors", SafetensorsBytes(tensors));
    return;
  }
  std::vector<RawTensors> shards(spec.num_shards);
  json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", json::object()}};
  const auto file_name = [&spec](int shard) {
    return "model-" + std::to_string(shard + 1) + "-of-" + std::to_string(spec.num_shards) +
           ".safetensors";
  };
  int next = 0;
  for (const auto& [name, tensor] : tensors) {
    const int shard = next++ % spec.num_shards;
    shards[shard][name] = tensor;
    index["weight_map"][name] = file_name(shard);
  }
  for (int i = 0; i < spec.num_shards; ++i) {
    WriteFile(folder + "/" + file_name(i), SafetensorsBytes(shards[i]));
  }
  WriteFile(folder + "/model.safetensors.index.json", index.dump());
}

ReferenceModel::Tensors WriteRandomCheckpoint(const CheckpointSpec& spec,
                                              const std::string& folder) {
  ReferenceModel::Tensors tensors = MakeTensors(spec);
  WriteCheckpoint(spec, ToRawTensors(spec, tensors), folder);
  return tensors;
}

}  // namespace parallax::testing
