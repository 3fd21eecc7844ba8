// What a step must move and multiply at least, for utilisation metrics.
//
// Bytes: every weight once (of the embedding only the rows looked up, which are neglected) and
// the keys and values that are read. Flops: two a weight and token in the layers, two a weight
// and logits row in the head, and attention's: per (query row, visible key, query head) two
// score and two value products with a probe, one of each without, 2 head_dim flops each. Keys
// behind a layer's sliding window are neither read nor visible.
//
// Thread safety: pure functions.
#ifndef PARALLAX_ENGINE_CUDA_STEP_COST_H_
#define PARALLAX_ENGINE_CUDA_STEP_COST_H_

#include <cstdint>
#include <vector>

#include "engine/models/model_config.h"
#include "engine/runner/forward_batch.h"

namespace parallax {

struct StepCost {
  double bytes = 0.0;
  double flops = 0.0;
  bool decode_only = false;
};

class StepCostModel {
 public:
  explicit StepCostModel(const ModelConfig& config);

  StepCost CostOf(const ForwardBatch& batch, bool decode_only) const;

 private:
  double layer_parameters_ = 0.0;  // of the projections of all layers
  double head_parameters_ = 0.0;
  // Layers of one window, 0 = none.
  struct Attention {
    int32_t window = 0;
    double kv_bytes_per_token = 0.0;
    double flops_per_key = 0.0;  // one query row, all heads
  };
  std::vector<Attention> attention_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_STEP_COST_H_
