#include "engine/models/weights.h"

#include <new>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/models/tensor_layout.h"
#include "kernels/check.h"

namespace parallax {

using kernels::DType;

namespace {

class Loader {
 public:
  Loader(const ModelConfig& config, TensorSource& source, const kernels::Stream& stream)
      : config_(config), source_(source), stream_(stream) {}

  // Reads and packs everything; the first failure ends the loading.
  absl::StatusOr<std::unique_ptr<const DecoderWeights>> Load();

 private:
  void LoadLayer(int64_t index, DecoderLayerWeights& layer);
  void LoadOuterTensors();
  LinearWeights LoadLinear(const LinearLayout& layout);
  std::vector<float> LoadVector(const VectorLayout& layout);
  HostTensor Get(const std::string& name, const std::vector<int64_t>& shape);
  kernels::PackedWeight Pack(std::vector<HostTensor> parts);
  void NoteDType(DType dtype);

  const ModelConfig& config_;
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

std::vector<float> Loader::LoadVector(const VectorLayout& layout) {
  if (layout.name.empty()) return {};
  const HostTensor tensor = Get(layout.name, {layout.size});
  if (!status_.ok()) return {};
  weights_->weight_bytes += layout.size * static_cast<int64_t>(sizeof(float));
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

LinearWeights Loader::LoadLinear(const LinearLayout& layout) {
  LinearWeights linear;
  std::vector<HostTensor> parts;
  for (const ProjectionLayout& projection : layout.parts) {
    parts.push_back(Get(projection.name + ".weight", {projection.outputs, layout.inputs}));
    if (!layout.bias) continue;
    const std::vector<float> part = LoadVector({projection.name + ".bias", projection.outputs});
    linear.bias.insert(linear.bias.end(), part.begin(), part.end());
  }
  if (status_.ok()) linear.weight = Pack(std::move(parts));
  return linear;
}

void Loader::LoadLayer(int64_t index, DecoderLayerWeights& layer) {
  const LayerLayout tensors = LayerTensors(config_, index);
  layer.input_norm = LoadVector(tensors.input_norm);
  layer.qrkv = LoadLinear(tensors.qrkv);
  layer.q_norm = LoadVector(tensors.q_norm);
  layer.k_norm = LoadVector(tensors.k_norm);
  layer.r_norm = LoadVector(tensors.r_norm);
  layer.o = LoadLinear(tensors.o);
  layer.post_attention_norm = LoadVector(tensors.post_attention_norm);
  layer.gate_up = LoadLinear(tensors.gate_up);
  layer.down = LoadLinear(tensors.down);
  for (const std::string& name : tensors.ignored) source_.Ignore(name);
}

void Loader::LoadOuterTensors() {
  const OuterLayout tensors = OuterTensors(config_);
  weights_->final_norm = LoadVector(tensors.final_norm);
  weights_->embedding = Get(tensors.embedding, {config_.vocab_size, config_.hidden_size});
  if (!status_.ok()) return;
  weights_->weight_bytes += weights_->embedding.num_elements() *
                            static_cast<int64_t>(kernels::DTypeSize(weights_->embedding.dtype));
  if (tensors.lm_head) {
    weights_->lm_head = LoadLinear(*tensors.lm_head);
  } else {
    weights_->lm_head.weight = Pack({weights_->embedding});
  }
  for (const std::string& name : tensors.ignored) source_.Ignore(name);
}

absl::StatusOr<std::unique_ptr<const DecoderWeights>> Loader::Load() {
  weights_->layers.resize(config_.num_layers);
  for (int64_t i = 0; i < config_.num_layers && status_.ok(); ++i) {
    LoadLayer(i, weights_->layers[i]);
  }
  if (status_.ok()) LoadOuterTensors();
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
