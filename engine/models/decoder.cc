#include "engine/models/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/models/rope_frequencies.h"
#include "kernels/check.h"
#include "kernels/embedding.h"
#include "kernels/kv_cache_write.h"
#include "kernels/linear.h"
#include "kernels/parallax_attention.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/silu_and_mul.h"

namespace parallax {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::KvCacheView;
using kernels::TensorView;

namespace {

// Floats per token row of the two blocks that share memory.
int64_t AttentionWidth(const ModelConfig& config) { return config.qrkv_rows() + config.q_rows(); }
int64_t MlpWidth(const ModelConfig& config) { return 3 * config.intermediate_size; }

ConstTensorView VectorView(const std::vector<float>& values) {
  if (values.empty()) return {};
  return {values.data(), DType::kFloat32, {static_cast<int64_t>(values.size())}};
}

// Heads [tokens, heads, head_dim] that start at column `offset` of a fused projection's output.
TensorView HeadsView(float* fused, int64_t tokens, int64_t row_width, int64_t offset, int64_t heads,
                     int64_t head_dim) {
  TensorView view(fused + offset, DType::kFloat32, {tokens, heads, head_dim});
  view.strides = {row_width, head_dim, 1};
  return view;
}

}  // namespace

absl::Status Decoder::CheckSupported(const ModelConfig& config) {
  if (config.head_dim % kernels::kPanelWidth != 0 || config.head_dim > kernels::kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: head_dim = ", config.head_dim,
                                                   ": must be a multiple of ", kernels::kPanelWidth,
                                                   " up to ", kernels::kMaxHeadDim));
  }
  const int64_t group = config.num_heads / config.num_kv_heads;
  if (group > kernels::kMaxGroupSize) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", group,
                                                   " query heads share a KV head; at most ",
                                                   kernels::kMaxGroupSize, " are supported"));
  }
  return absl::OkStatus();
}

DecoderMemory Decoder::MemoryFor(const ModelConfig& config, const DecoderOptions& options,
                                 const kernels::Stream& stream) {
  const int64_t row_width =
      3 * config.hidden_size + std::max(AttentionWidth(config), MlpWidth(config));
  DecoderMemory memory;
  memory.activations =
      (options.max_num_batched_tokens * row_width + options.max_logits_rows * config.hidden_size) *
      static_cast<int64_t>(sizeof(float));
  memory.rope_table =
      options.max_context_tokens * config.head_dim * static_cast<int64_t>(sizeof(float));
  memory.probe_states = static_cast<int64_t>(kernels::ParallaxAttentionWorkspaceBytes(
      static_cast<int>(config.num_heads), static_cast<int>(config.num_kv_heads),
      static_cast<int>(config.head_dim), options.max_context_tokens, stream));
  return memory;
}

Decoder::Decoder(const ModelConfig& config, const DecoderWeights& weights,
                 const DecoderOptions& options, Communicator& communicator,
                 const kernels::Stream& stream)
    : config_(config),
      weights_(weights),
      options_(options),
      communicator_(communicator),
      stream_(stream) {}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(const ModelConfig& config,
                                                         const DecoderWeights& weights,
                                                         const DecoderOptions& options,
                                                         Communicator& communicator,
                                                         const kernels::Stream& stream) {
  if (auto status = CheckSupported(config); !status.ok()) return status;
  std::unique_ptr<Decoder> decoder(new Decoder(config, weights, options, communicator, stream));
  if (auto status = decoder->Allocate(); !status.ok()) return status;
  return decoder;
}

absl::Status Decoder::Allocate() {
  const DecoderMemory memory = MemoryFor(config_, options_, stream_);
  const auto allocate = [](int64_t bytes, const char* purpose, HostBuffer& buffer) {
    absl::StatusOr<HostBuffer> allocated =
        HostBuffer::Allocate(static_cast<size_t>(bytes), purpose);
    if (allocated.ok()) buffer = *std::move(allocated);
    return allocated.status();
  };
  if (auto status = allocate(memory.activations, "activations", activations_); !status.ok()) {
    return status;
  }
  if (auto status = allocate(memory.rope_table, "the rotary table", rope_); !status.ok()) {
    return status;
  }
  if (auto status = allocate(memory.probe_states, "probe states", workspace_); !status.ok()) {
    return status;
  }
  const int64_t tokens = options_.max_num_batched_tokens;
  residual_ = activations_.floats();
  hidden_ = residual_ + tokens * config_.hidden_size;
  projected_ = hidden_ + tokens * config_.hidden_size;
  gathered_ = projected_ + tokens * config_.hidden_size;
  qrkv_ = gathered_ + options_.max_logits_rows * config_.hidden_size;
  attended_ = qrkv_ + tokens * config_.qrkv_rows();
  gate_up_ = qrkv_;
  activated_ = gate_up_ + tokens * 2 * config_.intermediate_size;

  const TensorView table(rope_.data(), DType::kFloat32,
                         {options_.max_context_tokens, config_.head_dim});
  kernels::FillRopeTable(RopeInverseFrequencies(config_.rope, config_.head_dim), table);
  rope_table_ = table;
  return absl::OkStatus();
}

TensorView Decoder::Hidden(float* data, int64_t rows) const {
  return {data, DType::kFloat32, {rows, config_.hidden_size}};
}

void Decoder::Project(const ConstTensorView& x, const LinearWeights& linear, const TensorView& y) {
  kernels::Linear({.x = x, .weight = &linear.weight, .bias = VectorView(linear.bias), .y = y},
                  stream_);
}

void Decoder::Forward(const ForwardBatch& batch, std::span<const int32_t> token_ids,
                      std::span<const KvCacheView> caches) {
  num_tokens_ = static_cast<int64_t>(token_ids.size());
  kernels::Check(num_tokens_ <= options_.max_num_batched_tokens, "Decoder", "token_ids",
                 "at most max_num_batched_tokens", static_cast<double>(num_tokens_));
  const TensorView residual = Hidden(residual_, num_tokens_);
  const TensorView hidden = Hidden(hidden_, num_tokens_);
  const TensorView projected = Hidden(projected_, num_tokens_);
  const float epsilon = config_.rms_norm_eps;

  kernels::Embedding(weights_.embedding.view(), token_ids, residual, stream_);
  kernels::RmsNorm(residual, VectorView(weights_.layers.front().input_norm), epsilon, hidden,
                   stream_);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const DecoderLayerWeights& layer = weights_.layers[i];
    Attention(i, batch, caches[i]);
    kernels::AddRmsNorm(projected, residual, VectorView(layer.post_attention_norm), epsilon, hidden,
                        stream_);
    Mlp(layer, num_tokens_);
    const std::vector<float>& next_norm =
        i + 1 < config_.num_layers ? weights_.layers[i + 1].input_norm : weights_.final_norm;
    kernels::AddRmsNorm(projected, residual, VectorView(next_norm), epsilon, hidden, stream_);
  }
}

// hidden_ -> projected_, through one layer's attention.
void Decoder::Attention(int64_t layer_index, const ForwardBatch& batch, const KvCacheView& cache) {
  const DecoderLayerWeights& layer = weights_.layers[layer_index];
  const int64_t width = config_.qrkv_rows();
  Project(Hidden(hidden_, num_tokens_), layer.qrkv, {qrkv_, DType::kFloat32, {num_tokens_, width}});

  const auto heads = [&](int64_t offset, int64_t count) {
    return HeadsView(qrkv_, num_tokens_, width, offset, count, config_.head_dim);
  };
  const int64_t k_offset = config_.q_rows() + config_.r_rows();
  const TensorView q = heads(0, config_.num_heads);
  const TensorView r =
      config_.has_probe ? heads(config_.q_rows(), config_.num_heads) : TensorView();
  const TensorView k = heads(k_offset, config_.num_kv_heads);
  const TensorView v = heads(k_offset + config_.kv_rows(), config_.num_kv_heads);
  kernels::HeadNormRope({.q = {q, VectorView(layer.q_norm)},
                         .r = {r, VectorView(layer.r_norm)},
                         .k = {k, VectorView(layer.k_norm)},
                         .norm_epsilon = config_.qk_norm_eps,
                         .table = rope_table_,
                         .positions = batch.positions},
                        stream_);
  kernels::KvCacheWrite(k, v, batch.slot_mapping, cache, stream_);

  kernels::ParallaxAttentionParams attention;
  attention.q = q;
  attention.r = r;
  attention.out = {attended_, DType::kFloat32, {num_tokens_, config_.num_heads, config_.head_dim}};
  attention.cache = cache;
  attention.query_start = batch.query_start;
  attention.context_len = batch.context_len;
  attention.block_tables = batch.block_tables;
  attention.max_blocks = batch.block_table_stride;
  attention.softmax_scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  attention.sliding_window = config_.layer_windows[layer_index];
  attention.workspace = workspace_.bytes();
  kernels::ParallaxAttention(attention, stream_);

  const TensorView projected = Hidden(projected_, num_tokens_);
  Project({attended_, DType::kFloat32, {num_tokens_, config_.q_rows()}}, layer.o, projected);
  communicator_.AllReduceSum(projected, stream_);
}

// hidden_ -> projected_, through one layer's SwiGLU MLP.
void Decoder::Mlp(const DecoderLayerWeights& layer, int64_t tokens) {
  const TensorView gate_up(gate_up_, DType::kFloat32, {tokens, 2 * config_.intermediate_size});
  const TensorView activated(activated_, DType::kFloat32, {tokens, config_.intermediate_size});
  const TensorView projected = Hidden(projected_, tokens);
  Project(Hidden(hidden_, tokens), layer.gate_up, gate_up);
  kernels::SiluAndMul(gate_up, activated, stream_);
  Project(activated, layer.down, projected);
  communicator_.AllReduceSum(projected, stream_);
}

void Decoder::Logits(std::span<const int32_t> rows, const TensorView& logits) {
  const auto count = static_cast<int64_t>(rows.size());
  kernels::Check(count <= options_.max_logits_rows, "Decoder", "logits rows",
                 "at most max_logits_rows", static_cast<double>(count));
  for (int64_t i = 0; i < count; ++i) {
    kernels::Check(rows[i] >= 0 && rows[i] < num_tokens_, "Decoder", "logits row",
                   "a row of the batch", rows[i]);
    std::memcpy(gathered_ + i * config_.hidden_size, hidden_ + rows[i] * config_.hidden_size,
                config_.hidden_size * sizeof(float));
  }
  Project(Hidden(gathered_, count), weights_.lm_head, logits);
}

void Decoder::LogitsSlice(int32_t first_row, int32_t count, int64_t column_begin,
                          int64_t column_end, const TensorView& logits) {
  kernels::Check(first_row >= 0 && count >= 0 && first_row + count <= num_tokens_, "Decoder",
                 "prompt logprob rows", "rows of the batch", first_row + count);
  kernels::Linear({.x = Hidden(hidden_ + first_row * config_.hidden_size, count),
                   .weight = &weights_.lm_head.weight,
                   .bias = {},
                   .y = logits,
                   .column_begin = column_begin,
                   .column_end = column_end},
                  stream_);
}

}  // namespace parallax
