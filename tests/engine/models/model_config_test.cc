#include "engine/models/model_config.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace parallax {
namespace {

using nlohmann::json;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Qwen3() {
  return {{"architectures", {"Qwen3ForCausalLM"}},
          {"vocab_size", 1000},
          {"hidden_size", 256},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 64},
          {"intermediate_size", 512},
          {"max_position_embeddings", 2048},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 1000000},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", true},
          {"eos_token_id", 7}};
}

json ParallaxQwen3() {
  json config = Qwen3();
  config["architectures"] = {"ParallaxQwen3ForCausalLM"};
  return config;
}

json Llama() {
  json config = Qwen3();
  config["architectures"] = {"LlamaForCausalLM"};
  config.erase("head_dim");
  return config;
}

json Fla() {
  return {{"architectures", {"ParallaxForCausalLM"}},
          {"model_type", "parallax"},
          {"vocab_size", 32000},
          {"hidden_size", 2048},
          {"num_hidden_layers", 24},
          {"num_heads", 32},
          {"num_kv_heads", nullptr},
          {"hidden_act", "swish"},
          {"norm_eps", 1e-6},
          {"window_size", nullptr},
          {"attnres_block_size", nullptr},
          {"intermediate_size", nullptr}};
}

json With(json config, const json& changes) {
  config.update(changes);
  return config;
}

std::string Refusal(const json& config) {
  const auto parsed = ParseModelConfig(config.dump());
  return parsed.ok() ? "accepted" : std::string(parsed.status().message());
}

TEST(ModelConfig, ReadsParallaxQwen3) {
  const auto config = ParseModelConfig(ParallaxQwen3().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "ParallaxQwen3ForCausalLM");
  EXPECT_EQ(config->convention, CheckpointConvention::kHuggingFace);
  EXPECT_TRUE(config->has_probe);
  EXPECT_TRUE(config->qk_norm);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->qrkv_rows(), 2 * 4 * 64 + 2 * 2 * 64);
  EXPECT_EQ(config->rope.theta, 1e6);
  EXPECT_THAT(config->layer_windows, Each(0));
  EXPECT_THAT(config->eos_token_ids, ElementsAre(7));
  EXPECT_FALSE(config->bos_token_id.has_value());
}

TEST(ModelConfig, SoftmaxModelsHaveNoProbe) {
  const auto qwen = ParseModelConfig(Qwen3().dump());
  ASSERT_TRUE(qwen.ok()) << qwen.status();
  EXPECT_FALSE(qwen->has_probe);
  EXPECT_EQ(qwen->qrkv_rows(), (4 + 2 * 2) * 64);

  const auto llama = ParseModelConfig(Llama().dump());
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_FALSE(llama->has_probe);
  EXPECT_FALSE(llama->qk_norm);
  EXPECT_EQ(llama->head_dim, 256 / 4);
}

TEST(ModelConfig, Qwen3HeadDimDefaultsTo128) {
  json config = Qwen3();
  config.erase("head_dim");
  EXPECT_EQ(ParseModelConfig(config.dump())->head_dim, 128);
}

TEST(ModelConfig, ReadsFlaParallax) {
  const auto config = ParseModelConfig(Fla().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->convention, CheckpointConvention::kFla);
  EXPECT_TRUE(config->has_probe);
  EXPECT_FALSE(config->qk_norm);
  EXPECT_EQ(config->num_kv_heads, 32);
  EXPECT_EQ(config->head_dim, 64);
  // 2048 * 4 * 2 / 3 = 5461.3, up to a multiple of 256.
  EXPECT_EQ(config->intermediate_size, 5632);
  EXPECT_EQ(config->rope.theta, 10000);
  EXPECT_EQ(config->max_position_embeddings, 0);
}

TEST(ModelConfig, FlaHeadNormsKeepTheirOwnEpsilon) {
  const auto config = ParseModelConfig(With(Fla(), {{"qk_norm", true}, {"norm_eps", 1e-3}}).dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-3f);
  EXPECT_FLOAT_EQ(config->qk_norm_eps, 1e-5f);
}

TEST(ModelConfig, FlaIsKnownByModelTypeAlone) {
  json config = Fla();
  config.erase("architectures");
  EXPECT_EQ(ParseModelConfig(config.dump())->architecture, "ParallaxForCausalLM");
}

TEST(ModelConfig, WindowSizeAppliesToEveryLayer) {
  EXPECT_THAT(ParseModelConfig(With(ParallaxQwen3(), {{"window_size", 96}}).dump())->layer_windows,
              ElementsAre(96, 96, 96, 96));
  EXPECT_THAT(ParseModelConfig(With(Fla(), {{"window_size", 5}}).dump())->layer_windows, Each(5));
}

TEST(ModelConfig, SlidingWindowCountsOnlyWhenUsed) {
  const json unused = {{"use_sliding_window", false}, {"sliding_window", 32}};
  EXPECT_THAT(ParseModelConfig(With(Qwen3(), unused).dump())->layer_windows, Each(0));
  const json from_layer_2 = {
      {"use_sliding_window", true}, {"sliding_window", 32}, {"max_window_layers", 2}};
  EXPECT_THAT(ParseModelConfig(With(Qwen3(), from_layer_2).dump())->layer_windows,
              ElementsAre(0, 0, 32, 32));
}

TEST(ModelConfig, LayerTypesChooseTheSlidingLayers) {
  const json types = {
      {"use_sliding_window", true},
      {"sliding_window", 32},
      {"layer_types",
       {"sliding_attention", "full_attention", "sliding_attention", "full_attention"}}};
  EXPECT_THAT(ParseModelConfig(With(Qwen3(), types).dump())->layer_windows,
              ElementsAre(32, 0, 32, 0));
}

TEST(ModelConfig, ReadsRopeInBothSpellings) {
  const json scaling = {{"type", "linear"}, {"factor", 4.0}};
  const auto old_style = ParseModelConfig(With(Llama(), {{"rope_scaling", scaling}}).dump());
  ASSERT_TRUE(old_style.ok()) << old_style.status();
  EXPECT_EQ(old_style->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(old_style->rope.factor, 4.0);

  json config = Llama();
  config.erase("rope_theta");
  config["rope_parameters"] = {
      {"rope_type", "llama3"},   {"rope_theta", 500000.0},
      {"factor", 8.0},           {"low_freq_factor", 1.0},
      {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  config["dtype"] = "bfloat16";
  const auto new_style = ParseModelConfig(config.dump());
  ASSERT_TRUE(new_style.ok()) << new_style.status();
  EXPECT_EQ(new_style->rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(new_style->rope.theta, 500000.0);
  EXPECT_EQ(new_style->rope.factor, 8.0);
}

TEST(ModelConfig, AttentionBiasCoversAllFourProjections) {
  const auto llama =
      ParseModelConfig(With(Llama(), {{"attention_bias", true}, {"mlp_bias", true}}).dump());
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_TRUE(llama->qkv_bias && llama->o_bias && llama->mlp_bias);
  const auto fla = ParseModelConfig(With(Fla(), {{"qkv_bias", true}}).dump());
  ASSERT_TRUE(fla.ok()) << fla.status();
  EXPECT_TRUE(fla->qkv_bias);
  EXPECT_FALSE(fla->o_bias);
}

struct Refused {
  json base;
  json changes;
  const char* message;
};

TEST(ModelConfig, RefusesByNameAndValue) {
  const Refused cases[] = {
      {Qwen3(),
       {{"architectures", {"MambaForCausalLM"}}},
       "architectures = [\"MambaForCausalLM\"]"},
      {Qwen3(), {{"architectures", nullptr}}, "architectures is missing"},
      {Qwen3(), {{"hidden_size", nullptr}}, "hidden_size is missing"},
      {Qwen3(), {{"hidden_size", "256"}}, "hidden_size = \"256\""},
      {Qwen3(), {{"hidden_size", 0}}, "hidden_size = 0"},
      {Qwen3(), {{"hidden_size", 1e18}}, "hidden_size = 1e+18"},
      {Qwen3(), {{"vocab_size", 18446744073709551615u}}, "vocab_size = 18446744073709551615"},
      {Qwen3(), {{"num_hidden_layers", -1}}, "num_hidden_layers = -1"},
      {Qwen3(), {{"num_key_value_heads", 3}}, "multiple of the number of KV heads (3)"},
      {Qwen3(), {{"head_dim", 63}}, "head_dim = 63"},
      {Qwen3(), {{"hidden_act", "gelu"}}, "hidden_act = \"gelu\""},
      {Qwen3(), {{"rms_norm_eps", -1}}, "rms_norm_eps = -1"},
      {Qwen3(), {{"mlp_bias", true}}, "mlp_bias = true"},
      {Qwen3(), {{"eos_token_id", 1000}}, "eos_token_id = 1000"},
      {Qwen3(), {{"eos_token_id", {1, "2"}}}, "eos_token_id = [1,\"2\"]"},
      {Qwen3(), {{"bos_token_id", {1, 2}}}, "bos_token_id = [1,2]"},
      {Qwen3(), {{"quantization_config", {{"quant_method", "awq"}}}}, "quantization_config = "},
      {Qwen3(), {{"num_experts", 64}}, "num_experts = 64"},
      {Qwen3(), {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor = 0.5"},
      {Qwen3(), {{"use_sliding_window", true}}, "use_sliding_window needs sliding_window"},
      {Qwen3(), {{"use_sliding_window", 1}}, "use_sliding_window = 1"},
      {Qwen3(), {{"layer_types", {"full_attention"}}}, "layer_types = [\"full_attention\"]"},
      {Qwen3(),
       {{"layer_types",
         {"full_attention", "sliding_attention", "full_attention", "full_attention"}}},
       "layer_types[1] = \"sliding_attention\" contradicts use_sliding_window"},
      {Qwen3(),
       {{"layer_types",
         {"full_attention", "full_attention", "full_attention", "linear_attention"}}},
       "layer_types[3] = \"linear_attention\""},
      {ParallaxQwen3(),
       {{"window_size", 8}, {"use_sliding_window", true}, {"sliding_window", 8}},
       "window_size = 8: contradicts use_sliding_window"},
      {ParallaxQwen3(), {{"window_size", 0}}, "window_size = 0"},
      {Llama(), {{"sliding_window", 4096}}, "sliding_window = 4096"},
      {Llama(), {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}}}, "rope_type = \"yarn\""},
      {Llama(), {{"rope_scaling", {{"type", "dynamic"}, {"factor", 4}}}}, "type = \"dynamic\""},
      {Llama(), {{"rope_scaling", "linear"}}, "rope_scaling = \"linear\""},
      {Llama(), {{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling.factor is missing"},
      {Llama(), {{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}}, "rope_scaling.factor = 0"},
      {Llama(),
       {{"rope_scaling", {{"type", "llama3"}, {"factor", 8}}}},
       "low_freq_factor is missing"},
      {Llama(),
       {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}},
        {"rope_parameters", {{"rope_type", "default"}}}},
       "contradicts rope_parameters"},
      {Llama(),
       {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
       "rope_parameters.full_attention"},
      {Llama(), {{"rope_theta", 0}}, "rope_theta = 0"},
      {Fla(), {{"attnres_block_size", 4}}, "attnres_block_size = 4"},
      {Fla(), {{"num_heads", 48}}, "num_heads = 48: must divide hidden_size"},
      {Fla(), {{"hidden_act", "powlu"}}, "hidden_act = \"powlu\""},
      {Fla(), {{"hidden_ratio", 1e9}}, "hidden_ratio = 1"},
      {Fla(), {{"hidden_size", 262144}, {"hidden_ratio", 64}}, "intermediate_size"},
  };
  for (const Refused& test : cases) {
    EXPECT_THAT(Refusal(With(test.base, test.changes)), HasSubstr(test.message)) << test.changes;
  }
}

TEST(ModelConfig, RefusesWhatIsNotOneObject) {
  for (const std::string text : {"", "[]", "{", "null", "{} {}", "{\"vocab_size\": 1e999}"}) {
    const auto parsed = ParseModelConfig(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  const auto twice = ParseModelConfig(R"({"vocab_size": 5, "vocab_size": 6})");
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("\"vocab_size\" appears twice"));
  const auto deep =
      ParseModelConfig("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}");
  EXPECT_THAT(std::string(deep.status().message()), HasSubstr("nest deeper"));
}

TEST(GenerationDefaults, ReadsWhatIsThere) {
  const auto defaults = ParseGenerationDefaults(
      R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
          "repetition_penalty": 1.1, "eos_token_id": [5, 6], "bos_token_id": 1})",
      100);
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_FLOAT_EQ(*defaults->temperature, 0.6f);
  EXPECT_EQ(*defaults->top_k, 20);
  EXPECT_FLOAT_EQ(*defaults->top_p, 0.95f);
  EXPECT_FLOAT_EQ(*defaults->repetition_penalty, 1.1f);
  EXPECT_FALSE(defaults->min_p.has_value());
  EXPECT_THAT(defaults->eos_token_ids, ElementsAre(5, 6));
  EXPECT_EQ(*defaults->bos_token_id, 1);
}

TEST(GenerationDefaults, NoSamplingMeansGreedy) {
  EXPECT_EQ(*ParseGenerationDefaults(R"({"do_sample": false, "temperature": 0.6})", 9)->temperature,
            0);
  EXPECT_FALSE(ParseGenerationDefaults("{}", 9)->temperature.has_value());
}

TEST(GenerationDefaults, RefusesByName) {
  for (const auto& [text, message] : {std::pair{R"({"temperature": -1})", "temperature = -1"},
                                      {R"({"top_p": 2})", "top_p = 2"},
                                      {R"({"top_p": 0})", "top_p = 0: must be above 0"},
                                      {R"({"top_p": 1e-60})", "top_p = 1e-60: must be above 0"},
                                      {R"({"repetition_penalty": 0})", "repetition_penalty = 0"},
                                      {R"({"eos_token_id": 9})", "eos_token_id = 9"}}) {
    const auto parsed = ParseGenerationDefaults(text, 9);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace parallax
