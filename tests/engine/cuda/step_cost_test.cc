// The least a step can cost, against sums written out by hand.
#include "engine/cuda/step_cost.h"

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

}  // namespace
}  // namespace parallax
