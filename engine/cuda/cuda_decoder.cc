#include "engine/cuda/cuda_decoder.h"

#include <algorithm>
#include <cmath>

#include "engine/models/rope_frequencies.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/execution.h"
#include "kernels/cuda/head_norm_rope.h"
#include "kernels/cuda/parallax_decode.h"
#include "kernels/cuda/parallax_prefill.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/rope.h"

namespace parallax {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::TensorView;
using kernels::cuda::LinearEpilogue;
using kernels::cuda::LinearParams;
using kernels::cuda::LinearPlans;

namespace {

constexpr size_t kAlignment = 256;

// Hands out parts of one block; with a null base it only measures.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <typename T>
  T* Take(int64_t count) {
    auto* const place = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return place;
  }
  int64_t used() const { return static_cast<int64_t>(used_); }

 private:
  const uintptr_t base_;
  size_t used_ = 0;
};

struct Activations {
  float* residual;
  __nv_bfloat16* hidden;
  float* squares;
  __nv_bfloat16* block;  // an attention block's tensors, or an MLP's
  __nv_bfloat16* gathered;
  float* logits;
  float* rope_table;
  std::byte* linear_workspace;
  size_t linear_workspace_bytes;
};

Activations Place(const ModelConfig& config, const CudaDecoderOptions& options, Arena& arena) {
  const int64_t tokens = options.max_tokens;
  const int64_t block_width =
      std::max(config.qrkv_rows() + config.q_rows(), config.intermediate_size);
  Activations place;
  place.residual = arena.Take<float>(tokens * config.hidden_size);
  place.hidden = arena.Take<__nv_bfloat16>(tokens * config.hidden_size);
  place.squares =
      arena.Take<float>(kernels::cuda::kMaxSkinnyTokens * kernels::cuda::kMaxSquareParts);
  place.block = arena.Take<__nv_bfloat16>(tokens * block_width);
  place.gathered = arena.Take<__nv_bfloat16>(options.max_logits_rows * config.hidden_size);
  place.logits = arena.Take<float>(options.max_logits_rows * config.vocab_size);
  place.rope_table = arena.Take<float>(options.max_context_tokens * config.head_dim);
  place.linear_workspace_bytes =
      LinearPlans::WorkspaceBytes(std::max(options.max_tokens, options.max_logits_rows),
                                  static_cast<int>(2 * config.intermediate_size));
  place.linear_workspace =
      arena.Take<std::byte>(static_cast<int64_t>(place.linear_workspace_bytes));
  return place;
}

size_t DecodeWorkspaceBytes(const ModelConfig& config,
                            const kernels::cuda::DeviceProperties& device) {
  return kernels::cuda::ParallaxDecodeWorkspaceBytes(
      device, static_cast<int>(config.num_heads), static_cast<int>(config.num_kv_heads),
      static_cast<int>(config.head_dim), /*max_query_len=*/1);
}

size_t RoundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

template <typename T>
std::span<const T> StepArray(const DeviceStep& step, size_t offset, int count) {
  return {reinterpret_cast<const T*>(step.block + offset), static_cast<size_t>(count)};
}

}  // namespace

CudaDecoderMemory CudaDecoder::MemoryFor(const ModelConfig& config,
                                         const CudaDecoderOptions& options,
                                         const kernels::cuda::DeviceProperties& device) {
  Arena measure(nullptr);
  Place(config, options, measure);
  return {.activations = measure.used(),
          .probe_states = static_cast<int64_t>(RoundUp(DecodeWorkspaceBytes(config, device)) +
                                               kernels::cuda::ParallaxPrefillWorkspaceBytes())};
}

CudaDecoder::CudaDecoder(const ModelConfig& config, const DeviceWeights& weights,
                         const CudaDecoderOptions& options,
                         const kernels::cuda::DeviceProperties& device, Communicator& communicator,
                         const kernels::Stream& stream)
    : config_(config),
      weights_(weights),
      options_(options),
      device_(device),
      communicator_(communicator),
      stream_(stream),
      plans_(device) {
  const CudaDecoderMemory memory = MemoryFor(config, options, device);
  memory_ = kernels::cuda::DeviceBuffer(memory.activations, "activations in GPU memory");
  probe_states_ = kernels::cuda::DeviceBuffer(memory.probe_states, "probe states in GPU memory");
  Arena arena(memory_.data());
  const Activations place = Place(config, options, arena);
  residual_ = place.residual;
  hidden_ = place.hidden;
  squares_ = place.squares;
  square_parts_ =
      kernels::cuda::SkinnySquareParts(static_cast<int>(config.hidden_size), stream.device());
  qrkv_ = activated_ = place.block;
  attended_ = qrkv_ + options.max_tokens * config.qrkv_rows();
  gathered_ = place.gathered;
  logits_ = place.logits;
  rope_table_ = place.rope_table;
  linear_workspace_ = {place.linear_workspace, place.linear_workspace_bytes};
  const size_t decode_bytes = DecodeWorkspaceBytes(config, device);
  decode_workspace_ = probe_states_.bytes().first(decode_bytes);
  prefill_workspace_ = probe_states_.bytes().subspan(RoundUp(decode_bytes));

  const int64_t table_elements = options.max_context_tokens * config.head_dim;
  const kernels::cuda::PinnedBuffer table(table_elements * sizeof(float), "the rotary table");
  kernels::FillRopeTable(
      RopeInverseFrequencies(config.rope, config.head_dim),
      {table.data(), DType::kFloat32, {options.max_context_tokens, config.head_dim}});
  kernels::cuda::CopyToDevice(rope_table_, table.data(), table.size(), stream);
  kernels::cuda::Event copied;
  copied.Record(stream);
  copied.Synchronize();
}

ConstTensorView CudaDecoder::logits() const {
  return {
      logits_, DType::kFloat32, {options_.max_logits_rows, config_.vocab_size}, stream_.device()};
}

LinearParams CudaDecoder::Params(const DeviceLinearWeights& weights, const __nv_bfloat16* x,
                                 int tokens) const {
  LinearParams params;
  params.x = x;
  params.weight = weights.weight;
  params.bias = weights.bias;
  params.tokens = tokens;
  params.num_outputs = weights.outputs;
  params.num_inputs = weights.inputs;
  params.programmatic_launch = true;  // what precedes on the stream is a kernel
  return params;
}

LinearParams CudaDecoder::NormedParams(const DeviceLinearWeights& weights, int tokens,
                                       bool is_deferred) const {
  LinearParams params = Params(weights, hidden_, tokens);
  if (is_deferred) {
    params.norm = {.squares = squares_, .parts = square_parts_, .epsilon = config_.rms_norm_eps};
  }
  return params;
}

// On several devices only one may add to the residual stream before the sum over all; the others
// would store. With one device, the sum is nothing and the addition is free.
LinearParams CudaDecoder::AccumulateParams(const DeviceLinearWeights& weights,
                                           const __nv_bfloat16* x, int tokens,
                                           const float* deferred_norm) const {
  LinearParams params = Params(weights, x, tokens);
  params.y = residual_;
  params.y_dtype = DType::kFloat32;
  params.epilogue = LinearEpilogue::kAccumulate;
  if (deferred_norm != nullptr) {
    params.next_norm = {.weight = deferred_norm, .scaled = hidden_, .squares = squares_};
  }
  return params;
}

LinearParams CudaDecoder::QrkvParams(const DeviceLinearWeights& weights, int tokens,
                                     bool is_deferred) const {
  LinearParams params = NormedParams(weights, tokens, is_deferred);
  params.y = qrkv_;
  return params;
}

LinearParams CudaDecoder::GateUpParams(const DeviceLinearWeights& weights, int tokens,
                                       bool is_deferred) const {
  LinearParams params = NormedParams(weights, tokens, is_deferred);
  params.y = activated_;
  params.epilogue = LinearEpilogue::kSiluAndMul;
  return params;
}

LinearParams CudaDecoder::LogitsParams(const __nv_bfloat16* x, int tokens) const {
  LinearParams params = Params(weights_.lm_head, x, tokens);
  params.y = logits_;
  params.y_dtype = DType::kFloat32;
  return params;
}

std::vector<LinearParams> CudaDecoder::AllLinearLayers() const {
  const int tokens = options_.max_tokens;
  std::vector<LinearParams> layers;
  for (const DeviceLayerWeights& layer : weights_.layers) {
    layers.push_back(QrkvParams(layer.qrkv, tokens, false));
    layers.push_back(AccumulateParams(layer.o, attended_, tokens, nullptr));
    layers.push_back(GateUpParams(layer.gate_up, tokens, false));
    layers.push_back(AccumulateParams(layer.down, activated_, tokens, nullptr));
  }
  layers.push_back(LogitsParams(gathered_, options_.max_logits_rows));
  return layers;
}

void CudaDecoder::TuneLinearLayers(std::string_view saved) {
  if (!saved.empty()) plans_.Restore(saved);
  plans_.Tune(AllLinearLayers(), linear_workspace_, stream_);
}

void CudaDecoder::Norm(const float* weight, int tokens) {
  const kernels::Device device = stream_.device();
  kernels::cuda::RmsNorm(
      ConstTensorView(residual_, DType::kFloat32, {tokens, config_.hidden_size}, device),
      ConstTensorView(weight, DType::kFloat32, {config_.hidden_size}, device), config_.rms_norm_eps,
      TensorView(hidden_, DType::kBFloat16, {tokens, config_.hidden_size}, device), stream_);
}

bool CudaDecoder::DefersNorms(int tokens) const {
  if (square_parts_ == 0 || communicator_.size() > 1) return false;
  const DeviceLayerWeights& layer = weights_.layers.front();  // all are of one shape
  const auto runs_skinny = [&](const LinearParams& params) { return plans_.RunsSkinny(params); };
  return runs_skinny(QrkvParams(layer.qrkv, tokens, true)) &&
         runs_skinny(AccumulateParams(layer.o, attended_, tokens, nullptr)) &&
         runs_skinny(GateUpParams(layer.gate_up, tokens, true)) &&
         runs_skinny(AccumulateParams(layer.down, activated_, tokens, nullptr));
}

void CudaDecoder::Forward(const StepShape& shape, const DeviceStep& step,
                          std::span<const kernels::cuda::PagedKvCache> caches) {
  const StepLayout layout(shape);
  const kernels::Device device = stream_.device();
  kernels::cuda::Embedding(
      {.table = ConstTensorView(weights_.embedding, DType::kBFloat16,
                                {config_.vocab_size, config_.hidden_size}, device),
       .ids = StepArray<int32_t>(step, layout.token_ids, shape.tokens),
       .slot_tokens = step.slot_tokens,
       .out = TensorView(residual_, DType::kFloat32, {shape.tokens, config_.hidden_size}, device)},
      stream_);
  const bool defers = DefersNorms(shape.tokens);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const DeviceLayerWeights& layer = weights_.layers[i];
    if (i == 0 || !defers) Norm(layer.input_norm, shape.tokens);
    Attention(i, shape, step, caches[i], defers);
    if (!defers) Norm(layer.post_attention_norm, shape.tokens);
    Mlp(i, shape.tokens, defers);
  }
  Norm(weights_.final_norm, shape.tokens);
}

TensorView CudaDecoder::Heads(__nv_bfloat16* data, int first_row, int rows, int64_t stride) const {
  TensorView heads(data + first_row * stride, DType::kBFloat16,
                   {rows, config_.num_heads, config_.head_dim}, stream_.device());
  heads.strides[0] = stride;
  return heads;
}

// hidden_ -> residual_, through one layer's attention.
void CudaDecoder::Attention(int64_t layer_index, const StepShape& shape, const DeviceStep& step,
                            const kernels::cuda::PagedKvCache& cache, bool defers_norms) {
  const DeviceLayerWeights& layer = weights_.layers[layer_index];
  const StepLayout layout(shape);
  const kernels::Device device = stream_.device();
  const int64_t width = config_.qrkv_rows();
  Run(QrkvParams(layer.qrkv, shape.tokens, defers_norms && layer_index > 0));

  const auto norm_weight = [&](const float* weight) {
    return weight == nullptr ? ConstTensorView()
                             : ConstTensorView(weight, DType::kFloat32, {config_.head_dim}, device);
  };
  kernels::cuda::HeadNormRopeParams rope;
  rope.qrkv = ConstTensorView(qrkv_, DType::kBFloat16, {shape.tokens, width}, device);
  rope.q = Heads(qrkv_, 0, shape.tokens, width);
  if (config_.has_probe) rope.r = Heads(qrkv_ + config_.q_rows(), 0, shape.tokens, width);
  rope.q_weight = norm_weight(layer.q_norm);
  rope.r_weight = norm_weight(layer.r_norm);
  rope.k_weight = norm_weight(layer.k_norm);
  rope.norm_epsilon = config_.qk_norm_eps;
  rope.table = ConstTensorView(rope_table_, DType::kFloat32,
                               {options_.max_context_tokens, config_.head_dim}, device);
  rope.positions = StepArray<int32_t>(step, layout.positions, shape.tokens);
  rope.slot_mapping = StepArray<int64_t>(step, layout.slot_mapping, shape.tokens);
  rope.cache = cache;
  // Beside prefill, that is what starts next.
  if (shape.prefill_sequences() == 0) {
    rope.holds_next_from = kernels::cuda::DecodeHoldsFrom(
        device_, shape.decode_sequences, static_cast<int>(config_.num_heads), cache,
        config_.layer_windows[layer_index]);
  }
  kernels::cuda::HeadNormRopeAndKvWrite(rope, stream_);

  Attend({shape, step, config_.layer_windows[layer_index], cache});
  Run(AccumulateParams(layer.o, attended_, shape.tokens,
                       defers_norms ? layer.post_attention_norm : nullptr));
  communicator_.AllReduceSum(
      TensorView(residual_, DType::kFloat32, {shape.tokens, config_.hidden_size}, device), stream_);
}

// qrkv_ and the cache -> attended_.
void CudaDecoder::Attend(const AttentionInputs& inputs) {
  const bool decodes = inputs.shape.decode_sequences > 0;
  const bool prefills = inputs.shape.prefill_sequences() > 0;
  if (decodes && prefills && options_.overlap_attention) {
    // Prefill's blocks take a multiprocessor each and run as long as the keys are many, so they go
    // first; decode's fill what is left, and more as those end. Neither kernel's blocks wait for
    // others of their launch that may not have started yet (a cluster starts as one), so that
    // either ends however few multiprocessors it gets.
    AttendPrefilling(inputs);
    AttendDecoding(inputs, /*beside_prefill=*/true);
    return;
  }
  if (decodes) AttendDecoding(inputs, /*beside_prefill=*/false);
  if (prefills) AttendPrefilling(inputs);
}

void CudaDecoder::AttendDecoding(const AttentionInputs& inputs, bool beside_prefill) {
  const StepShape& shape = inputs.shape;
  const StepLayout layout(shape);
  const int64_t width = config_.qrkv_rows();
  kernels::cuda::ParallaxDecodeParams decode;
  decode.q = Heads(qrkv_, 0, shape.decode_sequences, width);
  if (config_.has_probe) {
    decode.r = Heads(qrkv_ + config_.q_rows(), 0, shape.decode_sequences, width);
  }
  decode.out = Heads(attended_, 0, shape.decode_sequences, config_.q_rows());
  decode.cache = inputs.cache;
  decode.batch = shape.decode_sequences;
  decode.context_len = StepArray<int32_t>(inputs.step, layout.context_len, shape.sequences).data();
  decode.block_tables = inputs.step.block_tables;
  decode.max_blocks = inputs.step.max_blocks;
  decode.softmax_scale = softmax_scale();
  decode.sliding_window = inputs.window;
  decode.workspace = decode_workspace_;
  decode.programmatic_launch = true;  // what precedes on the stream is a kernel
  decode.beside_preceding = beside_prefill;
  kernels::cuda::ParallaxDecode(decode, device_, stream_);
}

void CudaDecoder::AttendPrefilling(const AttentionInputs& inputs) {
  const StepShape& shape = inputs.shape;
  const StepLayout layout(shape);
  const int64_t width = config_.qrkv_rows();
  const int first = shape.decode_sequences;  // sequences and rows alike
  kernels::cuda::ParallaxPrefillParams prefill;
  prefill.q = Heads(qrkv_, first, shape.prefill_tokens(), width);
  if (config_.has_probe) {
    prefill.r = Heads(qrkv_ + config_.q_rows(), first, shape.prefill_tokens(), width);
  }
  prefill.out = Heads(attended_, first, shape.prefill_tokens(), config_.q_rows());
  prefill.cache = inputs.cache;
  prefill.batch = shape.prefill_sequences();
  prefill.query_start =
      StepArray<int32_t>(inputs.step, layout.prefill_query_start, shape.prefill_sequences() + 1)
          .data();
  prefill.context_len =
      StepArray<int32_t>(inputs.step, layout.context_len, shape.sequences).data() + first;
  prefill.block_tables = inputs.step.block_tables + int64_t{first} * inputs.step.max_blocks;
  prefill.max_blocks = inputs.step.max_blocks;
  prefill.softmax_scale = softmax_scale();
  prefill.sliding_window = inputs.window;
  prefill.workspace = prefill_workspace_;
  prefill.programmatic_launch = true;  // what precedes on the stream is a kernel
  kernels::cuda::ParallaxPrefill(prefill, device_, stream_);
}

float CudaDecoder::softmax_scale() const {
  return 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
}

// hidden_ -> residual_, through one layer's SwiGLU MLP.
void CudaDecoder::Mlp(int64_t layer_index, int tokens, bool defers_norms) {
  const DeviceLayerWeights& layer = weights_.layers[layer_index];
  const bool is_last = layer_index + 1 == config_.num_layers;
  const float* const next_norm =
      defers_norms && !is_last ? weights_.layers[layer_index + 1].input_norm : nullptr;
  Run(GateUpParams(layer.gate_up, tokens, defers_norms));
  Run(AccumulateParams(layer.down, activated_, tokens, next_norm));
  communicator_.AllReduceSum(
      TensorView(residual_, DType::kFloat32, {tokens, config_.hidden_size}, stream_.device()),
      stream_);
}

void CudaDecoder::LogitsOfRows(int first_row, int count) {
  Run(LogitsParams(hidden_ + first_row * config_.hidden_size, count));
}

void CudaDecoder::LogitsOfGatheredRows(std::span<const int32_t> rows) {
  const auto count = static_cast<int64_t>(rows.size());
  if (count == 0) return;
  kernels::cuda::GatherRows(
      ConstTensorView(hidden_, DType::kBFloat16, {options_.max_tokens, config_.hidden_size},
                      stream_.device()),
      rows, TensorView(gathered_, DType::kBFloat16, {count, config_.hidden_size}, stream_.device()),
      stream_);
  Run(LogitsParams(gathered_, static_cast<int>(count)));
}

}  // namespace parallax
