// The least a step can cost, against sums written out by hand.
#include "engine/cuda/step_cost.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace parallax {
namespace {

ModelConfig SmallModel(bool probe) {
  ModelConfig config;
  config.has_probe = probe;
  config.vocab_size = 1000;
  config.hidden_size = 64;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.intermediate_size = 128;
  config.layer_windows = {0, 0, 0};
  return config;
}

// Two sequences: one decodes at 10 visible keys, one prefills 3 rows up to 5 keys.
ForwardBatch MixedBatch() {
  ForwardBatch batch;
  batch.token_ids = {1, 2, 3, 4};
  batch.sequence_slots = {0, 1};
  batch.query_start = {0, 1, 4};
  batch.context_len = {10, 5};
  batch.logits_rows = {0, 3};
  return batch;
}

TEST(StepCost, CountsWeightsKeysAndProducts) {
  for (const bool probe : {false, true}) {
    const double projections = 64 * 64 * (probe ? 2 : 1) + 2 * 64 * 32 + 64 * 64;
    const double layers = 3 * (projections + 3 * 64 * 128);
    const double head = 64 * 1000;
    const StepCost cost = StepCostModel(SmallModel(probe)).CostOf(MixedBatch(), false);
    EXPECT_DOUBLE_EQ(cost.bytes, 2 * (layers + head) + (10 + 5) * 3 * 2 * 32 * 2);
    const double pairs = 10 + (3 + 4 + 5);  // visible keys of each row
    const double products = probe ? 4 : 2;  // of head_dim multiplications and additions
    EXPECT_DOUBLE_EQ(cost.flops, 2 * layers * 4 + 2 * head * 2 + pairs * 3 * 4 * products * 2 * 16);
  }
}

TEST(StepCost, CountsWhatAWindowLeaves) {
  ModelConfig config = SmallModel(/*probe=*/true);
  const StepCost full = StepCostModel(config).CostOf(MixedBatch(), false);
  config.layer_windows = {0, 4, 0};
  const StepCost windowed = StepCostModel(config).CostOf(MixedBatch(), false);
  // In one layer: 4 of 10 keys for the first sequence; the second's rows, at 3 .. 5 keys, see
  // 3, 4 and 4, and read all 5.
  const double kv_bytes_per_token = 2 * 32 * 2;
  EXPECT_DOUBLE_EQ(full.bytes - windowed.bytes, (10 - 4) * kv_bytes_per_token);
  const double flops_per_key = 4 * 4 * 2 * 16;
  EXPECT_DOUBLE_EQ(full.flops - windowed.flops, ((10 - 4) + (5 - 4)) * flops_per_key);
}

TEST(StepCost, AWindowSummedRowByRow) {
  ModelConfig config = SmallModel(/*probe=*/false);
  for (const int window : {1, 3, 7, 50}) {
    for (int context = 1; context <= 12; ++context) {
      for (int rows = 1; rows <= context; ++rows) {
        ForwardBatch batch;
        batch.token_ids.resize(rows);
        batch.sequence_slots = {0};
        batch.query_start = {0, rows};
        batch.context_len = {context};
        config.layer_windows = {0, 0, 0};
        const StepCost full = StepCostModel(config).CostOf(batch, false);
        config.layer_windows = {window, window, window};
        const StepCost windowed = StepCostModel(config).CostOf(batch, false);
        double hidden = 0;
        for (int length = context - rows + 1; length <= context; ++length) {
          hidden += std::max(0, length - window);
        }
        EXPECT_DOUBLE_EQ(full.flops - windowed.flops, hidden * 3 * 4 * 2 * 2 * 16);
      }
    }
  }
}

}  // namespace
}  // namespace parallax
