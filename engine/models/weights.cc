#include "engine/models/weights.h"

#include <array>
#include <iterator>
#include <new>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace parallax {

using kernels::DType;

namespace {

// How a convention names what the loader asks for.
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

// One of the projections that are packed together.
struct Projection {
  std::string name;  // without ".weight" / ".bias"
  int64_t outputs;
};

class Loader {
 public:
  Loader(const ModelConfig& config, TensorSource& source, const kernels::Stream& stream)
      : config_(config), names_(NamesOf(config.convention)), source_(source), stream_(stream) {}

  // Reads and packs everything; the first failure ends the loading.
  absl::StatusOr<std::unique_ptr<const DecoderWeights>> Load();

 private:
  void LoadLayer(int64_t index, DecoderLayerWeights& layer);
  void LoadEmbeddingAndHead();
  LinearWeights LoadLinear(const std::vector<Projection>& projections, int64_t inputs, bool bias);
  std::vector<float> LoadVector(const std::string& name, int64_t size);
  HostTensor Get(const std::string& name, const std::vector<int64_t>& shape);
  kernels::PackedWeight Pack(std::vector<HostTensor> parts);
  void NoteDType(DType dtype);

  const ModelConfig& config_;
  const TensorNames& names_;
  TensorSource& source_;
  const kernels::Stream& stream_;
  std::unique_ptr<DecoderWeights> weights_ = std::make_unique<DecoderWeights>();
  absl::Status status_;
};

HostTensor Loader::Get(const std::string& name, const std::vector<int64_t>& shape) {
  if (!status_.ok()) return {};
  absl::StatusOr<HostTensor> tensor = source_.Get(name, shape);
  if (!tensor.ok()) {
    status_ = tensor.status();
    return {};
  }
  weights_->num_parameters += tensor->num_elements();
  return *std::move(tensor);
}

std::vector<float> Loader::LoadVector(const std::string& name, int64_t size) {
  const HostTensor tensor = Get(name, {size});
  if (!status_.ok()) return {};
  weights_->weight_bytes += size * static_cast<int64_t>(sizeof(float));
  return tensor.ToFloat();
}

void Loader::NoteDType(DType dtype) {
  const std::string name(kernels::DTypeName(dtype));
  if (weights_->dtype.empty()) weights_->dtype = name;
  if (weights_->dtype != name) weights_->dtype = "mixed";
}

kernels::PackedWeight Loader::Pack(std::vector<HostTensor> parts) {
  const DType dtype = parts.front().dtype;
  bool same_dtype = true;
  for (const HostTensor& part : parts) same_dtype = same_dtype && part.dtype == dtype;
  std::vector<kernels::ConstTensorView> views;
  for (HostTensor& part : parts) {
    if (!same_dtype) part = ToFloat32Tensor(part);
    views.push_back(part.view());
  }
  kernels::PackedWeight packed(views, stream_);
  NoteDType(packed.dtype());
  weights_->weight_bytes += static_cast<int64_t>(packed.size_bytes());
  return packed;
}

LinearWeights Loader::LoadLinear(const std::vector<Projection>& projections, int64_t inputs,
                                 bool bias) {
  LinearWeights linear;
  std::vector<HostTensor> parts;
  for (const Projection& projection : projections) {
    parts.push_back(Get(projection.name + ".weight", {projection.outputs, inputs}));
    if (!bias) continue;
    const std::vector<float> part = LoadVector(projection.name + ".bias", projection.outputs);
    linear.bias.insert(linear.bias.end(), part.begin(), part.end());
  }
  if (status_.ok()) linear.weight = Pack(std::move(parts));
  return linear;
}

void Loader::LoadLayer(int64_t index, DecoderLayerWeights& layer) {
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  const std::string attention = absl::StrCat(prefix, names_.attention, ".");
  const int64_t hidden = config_.hidden_size;

  layer.input_norm = LoadVector(absl::StrCat(prefix, names_.input_norm, ".weight"), hidden);
  std::vector<Projection> qrkv = {{attention + "q_proj", config_.q_rows()}};
  if (config_.has_probe) qrkv.push_back({attention + "r_proj", config_.r_rows()});
  qrkv.push_back({attention + "k_proj", config_.kv_rows()});
  qrkv.push_back({attention + "v_proj", config_.kv_rows()});
  layer.qrkv = LoadLinear(qrkv, hidden, config_.qkv_bias);
  if (config_.qk_norm) {
    layer.q_norm = LoadVector(attention + "q_norm.weight", config_.head_dim);
    layer.k_norm = LoadVector(attention + "k_norm.weight", config_.head_dim);
    if (config_.has_probe) {
      layer.r_norm = LoadVector(attention + "r_norm.weight", config_.head_dim);
    }
  }
  layer.o = LoadLinear({{attention + "o_proj", hidden}}, config_.q_rows(), config_.o_bias);

  layer.post_attention_norm =
      LoadVector(absl::StrCat(prefix, names_.post_attention_norm, ".weight"), hidden);
  layer.gate_up = LoadLinear({{prefix + "mlp.gate_proj", config_.intermediate_size},
                              {prefix + "mlp.up_proj", config_.intermediate_size}},
                             hidden, config_.mlp_bias);
  layer.down =
      LoadLinear({{prefix + "mlp.down_proj", hidden}}, config_.intermediate_size, config_.mlp_bias);
  // Written by old versions of transformers; the rotation is computed here from config.json.
  source_.Ignore(attention + "rotary_emb.inv_freq");
  source_.Ignore(attention + "rotary.inv_freq");
}

void Loader::LoadEmbeddingAndHead() {
  const std::vector<int64_t> shape = {config_.vocab_size, config_.hidden_size};
  weights_->embedding = Get(absl::StrCat(names_.embedding, ".weight"), shape);
  if (!status_.ok()) return;
  weights_->weight_bytes += weights_->embedding.num_elements() *
                            static_cast<int64_t>(kernels::DTypeSize(weights_->embedding.dtype));
  if (config_.tie_word_embeddings) {
    source_.Ignore("lm_head.weight");
    weights_->lm_head.weight = Pack({weights_->embedding});
  } else {
    weights_->lm_head =
        LoadLinear({{"lm_head", config_.vocab_size}}, config_.hidden_size, /*bias=*/false);
  }
}

absl::StatusOr<std::unique_ptr<const DecoderWeights>> Loader::Load() {
  weights_->layers.resize(config_.num_layers);
  for (int64_t i = 0; i < config_.num_layers && status_.ok(); ++i) {
    LoadLayer(i, weights_->layers[i]);
  }
  weights_->final_norm = LoadVector("model.norm.weight", config_.hidden_size);
  LoadEmbeddingAndHead();
  source_.Ignore("model.rotary_emb.inv_freq");
  if (status_.ok()) status_ = source_.CheckAllUsed();
  if (!status_.ok()) return status_;
  source_.ReleasePages();
  return std::unique_ptr<const DecoderWeights>(std::move(weights_));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const DecoderWeights>> LoadDecoderWeights(
    const ModelConfig& config, TensorSource& source, const ShardSpec& shard,
    const kernels::Stream& stream) {
  if (shard.rank != 0 || shard.world_size != 1) {
    return absl::UnimplementedError(absl::StrCat("tensor parallelism is not implemented: rank ",
                                                 shard.rank, " of ", shard.world_size));
  }
  try {
    return Loader(config, source, stream).Load();
  } catch (const kernels::KernelError& error) {
    return absl::ResourceExhaustedError(absl::StrCat("packing weights: ", error.what()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("packing weights: out of memory");
  }
}

}  // namespace parallax
