#include "engine/cuda/step_cost.h"

namespace parallax {
namespace {

constexpr double kElementBytes = 2.0;  // bfloat16

}  // namespace

StepCostModel::StepCostModel(const ModelConfig& config) {
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto layers = static_cast<double>(config.num_layers);
  layer_parameters_ =
      layers * hidden *
      static_cast<double>(config.qrkv_rows() + config.q_rows() + 3 * config.intermediate_size);
  head_parameters_ = hidden * static_cast<double>(config.vocab_size);
  kv_bytes_per_token_ = layers * 2.0 * static_cast<double>(config.kv_rows()) * kElementBytes;
  attention_flops_per_key_ =
      layers * static_cast<double>(config.q_rows()) * (config.has_probe ? 8.0 : 4.0);
}

StepCost StepCostModel::CostOf(const ForwardBatch& batch, bool decode_only) const {
  double keys_read = 0.0;
  double scores = 0.0;  // (query row, visible key) pairs
  for (int s = 0; s < batch.num_sequences(); ++s) {
    const double rows = batch.query_start[s + 1] - batch.query_start[s];
    const double context = batch.context_len[s];
    keys_read += context;
    scores += rows * (context - (rows - 1.0) / 2.0);
  }
  StepCost cost;
  cost.decode_only = decode_only;
  cost.bytes =
      (layer_parameters_ + head_parameters_) * kElementBytes + keys_read * kv_bytes_per_token_;
  cost.flops = 2.0 * layer_parameters_ * batch.num_tokens() +
               2.0 * head_parameters_ * static_cast<double>(batch.logits_rows.size()) +
               scores * attention_flops_per_key_;
  return cost;
}

}  // namespace parallax
