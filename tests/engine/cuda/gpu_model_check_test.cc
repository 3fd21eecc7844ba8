// Shapes that the GPU cannot serve are refused by the name of the field, before anything is loaded.
#include "engine/cuda/gpu_model_check.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parallax {
namespace {

using ::testing::HasSubstr;

ModelConfig Servable() {
  ModelConfig config;
  config.vocab_size = 1000;
  config.hidden_size = 64;
  config.num_layers = 2;
  config.num_heads = 32;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.intermediate_size = 136;
  return config;
}

TEST(GpuModelCheck, ServesWhatTheOpsTake) { EXPECT_TRUE(CheckGpuServes(Servable()).ok()); }

TEST(GpuModelCheck, NamesTheFieldAndTheValue) {
  const struct {
    int64_t ModelConfig::*member;
    int64_t value;
    const char* message;
  } cases[] = {
      {&ModelConfig::head_dim, 96, "head_dim = 96: must be 64 or 128"},
      {&ModelConfig::num_heads, 34,
       "num_attention_heads = 34: must be at most 16 times num_key_value_heads, 2,"},
      {&ModelConfig::vocab_size, 1001, "vocab_size = 1001: must be a multiple of 8"},
      {&ModelConfig::hidden_size, 60, "hidden_size = 60: must be a multiple of 8"},
      {&ModelConfig::intermediate_size, 100, "intermediate_size = 100: must be a multiple of 8"},
      {&ModelConfig::hidden_size, 16392, "hidden_size = 16392: must be at most 16384"},
      {&ModelConfig::vocab_size, 1048584, "vocab_size = 1048584: must be at most 1048576"}};
  for (const auto& [member, value, message] : cases) {
    ModelConfig config = Servable();
    config.*member = value;
    const absl::Status status = CheckGpuServes(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace parallax
