#include "engine/cuda/device_weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "engine/cuda/preparation_status.h"
#include "engine/models/tensor_layout.h"
#include "kernels/check.h"
#include "kernels/cuda/execution.h"
#include "kernels/half_float.h"

namespace parallax {

using kernels::DType;
using kernels::cuda::DeviceBuffer;
using kernels::cuda::PinnedBuffer;

namespace {

constexpr size_t kAlignment = 256;
// Large enough that a copy runs at the bus's rate, small enough that the first one starts soon.
constexpr size_t kStagingBytes = size_t{16} << 20;

// One tensor of the checkpoint and where it goes.
struct Upload {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype;  // on the device
  std::byte* target;
};

// Gives every tensor its place, in order. With a null base the places are meaningless and only
// `size()` counts.
class Placement {
 public:
  explicit Placement(std::byte* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  const float* Vector(const VectorLayout& layout) {
    if (layout.name.empty()) return nullptr;
    std::byte* const target = Take(layout.size * sizeof(float));
    uploads_.push_back({layout.name, {layout.size}, DType::kFloat32, target});
    return reinterpret_cast<const float*>(target);
  }

  const __nv_bfloat16* Matrix(const std::string& name, int64_t rows, int64_t columns) {
    std::byte* const target = Take(rows * columns * sizeof(__nv_bfloat16));
    uploads_.push_back({name, {rows, columns}, DType::kBFloat16, target});
    return reinterpret_cast<const __nv_bfloat16*>(target);
  }

  DeviceLinearWeights Linear(const LinearLayout& layout) {
    DeviceLinearWeights linear;
    linear.outputs = static_cast<int>(layout.outputs());
    linear.inputs = static_cast<int>(layout.inputs);
    std::byte* const weight = Take(layout.outputs() * layout.inputs * sizeof(__nv_bfloat16));
    std::byte* const bias = layout.bias ? Take(layout.outputs() * sizeof(__nv_bfloat16)) : nullptr;
    int64_t row = 0;
    for (const ProjectionLayout& part : layout.parts) {
      uploads_.push_back({part.name + ".weight",
                          {part.outputs, layout.inputs},
                          DType::kBFloat16,
                          weight + row * layout.inputs * sizeof(__nv_bfloat16)});
      if (layout.bias) {
        uploads_.push_back({part.name + ".bias",
                            {part.outputs},
                            DType::kBFloat16,
                            bias + row * sizeof(__nv_bfloat16)});
      }
      row += part.outputs;
    }
    linear.weight = reinterpret_cast<const __nv_bfloat16*>(weight);
    linear.bias = reinterpret_cast<const __nv_bfloat16*>(bias);
    return linear;
  }

  int64_t size() const { return static_cast<int64_t>(used_); }
  const std::vector<Upload>& uploads() const { return uploads_; }

 private:
  std::byte* Take(size_t bytes) {
    auto* const place = reinterpret_cast<std::byte*>(base_ + used_);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return place;
  }

  const uintptr_t base_;
  size_t used_ = 0;
  std::vector<Upload> uploads_;
};

void Place(const ModelConfig& config, Placement& placement, DeviceWeights& weights) {
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerLayout tensors = LayerTensors(config, i);
    DeviceLayerWeights& layer = weights.layers.emplace_back();
    layer.input_norm = placement.Vector(tensors.input_norm);
    layer.qrkv = placement.Linear(tensors.qrkv);
    layer.q_norm = placement.Vector(tensors.q_norm);
    layer.r_norm = placement.Vector(tensors.r_norm);
    layer.k_norm = placement.Vector(tensors.k_norm);
    layer.o = placement.Linear(tensors.o);
    layer.post_attention_norm = placement.Vector(tensors.post_attention_norm);
    layer.gate_up = placement.Linear(tensors.gate_up);
    layer.down = placement.Linear(tensors.down);
  }
  const OuterLayout outer = OuterTensors(config);
  weights.final_norm = placement.Vector(outer.final_norm);
  weights.embedding = placement.Matrix(outer.embedding, config.vocab_size, config.hidden_size);
  weights.lm_head = outer.lm_head
                        ? placement.Linear(*outer.lm_head)
                        : DeviceLinearWeights{.weight = weights.embedding,
                                              .outputs = static_cast<int>(config.vocab_size),
                                              .inputs = static_cast<int>(config.hidden_size)};
}

float ElementAt(const HostTensor& tensor, int64_t i) {
  if (tensor.dtype == DType::kFloat32) return static_cast<const float*>(tensor.data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(tensor.data)[i];
  return tensor.dtype == DType::kBFloat16 ? kernels::BFloat16ToFloat(bits)
                                          : kernels::Float16ToFloat(bits);
}

// Elements [first, first + count) of the tensor as `dtype`, which is float32 or bfloat16.
void Convert(const HostTensor& tensor, int64_t first, int64_t count, DType dtype, void* out) {
  if (tensor.dtype == dtype) {
    const size_t size = kernels::DTypeSize(dtype);
    std::memcpy(out, static_cast<const std::byte*>(tensor.data) + first * size, count * size);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float value = ElementAt(tensor, first + i);
    if (dtype == DType::kFloat32) {
      static_cast<float*>(out)[i] = value;
    } else {
      static_cast<uint16_t*>(out)[i] = kernels::FloatToBFloat16(value);
    }
  }
}

// Copies tensors to the device through two pinned buffers in turn.
class Uploader {
 public:
  explicit Uploader(const kernels::Stream& stream) : stream_(stream) {
    for (Staging& staging : stagings_) {
      staging.buffer = PinnedBuffer(kStagingBytes, "staging of weights");
      staging.copied.Record(stream);
    }
  }

  void Copy(const HostTensor& tensor, const Upload& upload) {
    const auto size = static_cast<int64_t>(kernels::DTypeSize(upload.dtype));
    const int64_t piece = static_cast<int64_t>(kStagingBytes) / size;
    for (int64_t first = 0; first < tensor.num_elements(); first += piece) {
      const int64_t count = std::min(piece, tensor.num_elements() - first);
      Staging& staging = stagings_[next_];
      next_ = (next_ + 1) % stagings_.size();
      staging.copied.Synchronize();
      Convert(tensor, first, count, upload.dtype, staging.buffer.data());
      kernels::cuda::CopyToDevice(upload.target + first * size, staging.buffer.data(), count * size,
                                  stream_);
      staging.copied.Record(stream_);
    }
  }

  void Finish() {
    for (Staging& staging : stagings_) staging.copied.Synchronize();
  }

 private:
  struct Staging {
    PinnedBuffer buffer;
    kernels::cuda::Event copied;
  };
  const kernels::Stream stream_;
  std::array<Staging, 2> stagings_;
  size_t next_ = 0;
};

absl::Status CopyAll(std::span<const Upload> uploads, TensorSource& source,
                     const kernels::Stream& stream, DeviceWeights& weights) {
  Uploader uploader(stream);
  for (const Upload& upload : uploads) {
    const absl::StatusOr<HostTensor> tensor = source.Get(upload.name, upload.shape);
    if (!tensor.ok()) return tensor.status();
    weights.num_parameters += tensor->num_elements();
    uploader.Copy(*tensor, upload);
  }
  uploader.Finish();
  return absl::OkStatus();
}

void IgnoreSpareTensors(const ModelConfig& config, TensorSource& source) {
  for (int64_t i = 0; i < config.num_layers; ++i) {
    for (const std::string& name : LayerTensors(config, i).ignored) source.Ignore(name);
  }
  for (const std::string& name : OuterTensors(config).ignored) source.Ignore(name);
}

}  // namespace

int64_t DeviceWeightBytes(const ModelConfig& config) {
  Placement placement(nullptr);
  DeviceWeights unused;
  Place(config, placement, unused);
  return placement.size();
}

absl::StatusOr<std::unique_ptr<const DeviceWeights>> LoadDeviceWeights(
    const ModelConfig& config, TensorSource& source, const kernels::Stream& stream) {
  auto weights = std::make_unique<DeviceWeights>();
  try {
    weights->memory =
        DeviceBuffer(static_cast<size_t>(DeviceWeightBytes(config)), "weights in GPU memory");
    Placement placement(weights->memory.data());
    Place(config, placement, *weights);
    if (auto status = CopyAll(placement.uploads(), source, stream, *weights); !status.ok()) {
      return status;
    }
  } catch (const kernels::KernelError& error) {
    return PreparationStatus("loading weights", error);
  }
  IgnoreSpareTensors(config, source);
  if (auto status = source.CheckAllUsed(); !status.ok()) return status;
  source.ReleasePages();
  return std::unique_ptr<const DeviceWeights>(std::move(weights));
}

}  // namespace parallax
