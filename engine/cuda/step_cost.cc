#include "engine/cuda/step_cost.h"

#include <algorithm>
#include <map>

namespace parallax {
namespace {

constexpr double kElementBytes = 2.0;  // bfloat16

// By the last `rows` of a sequence of `context` tokens: of which the first sees the fewest.
double KeysRead(double rows, double context, int32_t window) {
  return window == 0 ? context : std::min(context, window + rows - 1.0);
}

// Summed over the rows. The k-th but last sees context - k keys, or the window.
double KeysVisible(double rows, double context, int32_t window) {
  const auto triangle = [=](double some_rows, double longest) {
    return some_rows * (longest - (some_rows - 1.0) / 2.0);
  };
  if (window == 0) return triangle(rows, context);
  const double full = std::clamp(context - window, 0.0, rows);
  return full * window + triangle(rows - full, context - full);
}

}  // namespace

StepCostModel::StepCostModel(const ModelConfig& config) {
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto layers = static_cast<double>(config.num_layers);
  layer_parameters_ =
      layers * hidden *
      static_cast<double>(config.qrkv_rows() + config.q_rows() + 3 * config.intermediate_size);
  head_parameters_ = hidden * static_cast<double>(config.vocab_size);
  std::map<int32_t, int> layers_by_window;
  for (const int32_t window : config.layer_windows) ++layers_by_window[window];
  for (const auto& [window, count] : layers_by_window) {
    attention_.push_back(
        {.window = window,
         .kv_bytes_per_token = count * 2.0 * static_cast<double>(config.kv_rows()) * kElementBytes,
         .flops_per_key =
             count * static_cast<double>(config.q_rows()) * (config.has_probe ? 8.0 : 4.0)});
  }
}

StepCost StepCostModel::CostOf(const ForwardBatch& batch, bool decode_only) const {
  StepCost cost;
  cost.decode_only = decode_only;
  cost.bytes = (layer_parameters_ + head_parameters_) * kElementBytes;
  cost.flops = 2.0 * layer_parameters_ * batch.num_tokens() +
               2.0 * head_parameters_ * static_cast<double>(batch.logits_rows.size());
  for (const Attention& layers : attention_) {
    for (int s = 0; s < batch.num_sequences(); ++s) {
      const double rows = batch.query_start[s + 1] - batch.query_start[s];
      const double context = batch.context_len[s];
      cost.bytes += KeysRead(rows, context, layers.window) * layers.kv_bytes_per_token;
      cost.flops += KeysVisible(rows, context, layers.window) * layers.flops_per_key;
    }
  }
  return cost;
}

}  // namespace parallax
