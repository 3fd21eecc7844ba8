#include "engine/models/weights.h"

#include <functional>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/engine/models/checkpoint_writer.h"

namespace parallax {
namespace {

using testing::CheckpointSpec;
using ::testing::HasSubstr;
using testing::MakeConfig;
using testing::RawTensor;
using testing::RawTensors;
using testing::TempFolder;
using testing::TinySpec;

class Weights : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<const DecoderWeights>> Load(const CheckpointSpec& spec,
                                                             const RawTensors& tensors,
                                                             ShardSpec shard = {}) {
    const TempFolder folder;
    WriteCheckpoint(spec, tensors, folder.path());
    auto checkpoint = SafetensorsCheckpoint::Open(folder.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    CheckpointTensorSource source(*std::move(checkpoint));
    const auto config = ParseModelConfig(MakeConfig(spec).dump());
    EXPECT_TRUE(config.ok()) << config.status();
    return LoadDecoderWeights(*config, source, shard, kernels::Stream(pool_));
  }

  std::string Refusal(const CheckpointSpec& spec, const std::function<void(RawTensors&)>& change) {
    RawTensors tensors = ToRawTensors(spec, MakeTensors(spec));
    change(tensors);
    const auto loaded = Load(spec, tensors);
    return loaded.ok() ? "accepted" : std::string(loaded.status().message());
  }

  kernels::ThreadPool pool_{2};
};

int64_t CountElements(const RawTensors& tensors) {
  int64_t count = 0;
  for (const auto& [name, tensor] : tensors) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    count += elements;
  }
  return count;
}

TEST_F(Weights, LoadsEveryConvention) {
  for (const char* architecture : {"ParallaxQwen3ForCausalLM", "ParallaxForCausalLM",
                                   "Qwen3ForCausalLM", "LlamaForCausalLM"}) {
    CheckpointSpec spec = TinySpec(architecture);
    spec.dtype = "BF16";
    const RawTensors tensors = ToRawTensors(spec, MakeTensors(spec));
    const auto loaded = Load(spec, tensors);
    ASSERT_TRUE(loaded.ok()) << architecture << ": " << loaded.status();
    const DecoderWeights& weights = **loaded;
    EXPECT_EQ(weights.num_parameters, CountElements(tensors));
    EXPECT_EQ(weights.dtype, "bfloat16");
    ASSERT_EQ(weights.layers.size(), 2u);
    const int64_t streams = spec.shape.probe ? 2 : 1;
    EXPECT_EQ(weights.layers[1].qrkv.weight.num_outputs(), 128 * streams + 2 * 64);
    EXPECT_EQ(weights.layers[1].r_norm.empty(), !spec.shape.probe || !spec.shape.qk_norm);
    EXPECT_EQ(weights.lm_head.weight.num_outputs(), 97);
  }
}

TEST_F(Weights, BiasesFollowTheirRows) {
  CheckpointSpec spec = TinySpec("LlamaForCausalLM");
  spec.shape.qkv_bias = spec.shape.o_bias = spec.shape.mlp_bias = true;
  const auto tensors = MakeTensors(spec);
  const auto loaded = Load(spec, ToRawTensors(spec, tensors));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const DecoderLayerWeights& layer = (*loaded)->layers[0];
  ASSERT_EQ(layer.qrkv.bias.size(), 128u + 64u + 64u);
  const std::string prefix = "model.layers.0.self_attn.";
  EXPECT_EQ(layer.qrkv.bias[0], tensors.at(prefix + "q_proj.bias").values[0]);
  EXPECT_EQ(layer.qrkv.bias[128], tensors.at(prefix + "k_proj.bias").values[0]);
  EXPECT_EQ(layer.qrkv.bias[192], tensors.at(prefix + "v_proj.bias").values[0]);
  EXPECT_EQ(layer.o.bias.size(), 128u);
  EXPECT_EQ(layer.gate_up.bias.size(), 160u);
}

TEST_F(Weights, TiedEmbeddingsServeAsHead) {
  CheckpointSpec spec = TinySpec();
  spec.shape.tied = true;
  RawTensors tensors = ToRawTensors(spec, MakeTensors(spec));
  const auto loaded = Load(spec, tensors);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->num_parameters, CountElements(tensors));
  // Some writers store the copy as well.
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  EXPECT_TRUE(Load(spec, tensors).ok());
}

TEST_F(Weights, RotaryBuffersAreIgnored) {
  const CheckpointSpec spec = TinySpec("LlamaForCausalLM");
  RawTensors tensors = ToRawTensors(spec, MakeTensors(spec));
  tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = {"F32", {32}, std::string(128, '\0')};
  const auto loaded = Load(spec, tensors);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
}

TEST_F(Weights, MembersOfAFusedGroupMayDifferInDType) {
  CheckpointSpec spec = TinySpec();
  spec.dtype = "BF16";
  RawTensors tensors = ToRawTensors(spec, MakeTensors(spec));
  CheckpointSpec wide = spec;
  wide.dtype = "F32";
  const std::string name = "model.layers.0.self_attn.v_proj.weight";
  tensors[name] = ToRawTensors(wide, MakeTensors(spec))[name];
  const auto loaded = Load(spec, tensors);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->dtype, "mixed");
  EXPECT_EQ((*loaded)->layers[0].qrkv.weight.dtype(), kernels::DType::kFloat32);
}

TEST_F(Weights, RefusesEveryMissingTensor) {
  const CheckpointSpec spec = TinySpec();
  for (const auto& [name, tensor] : ToRawTensors(spec, MakeTensors(spec))) {
    EXPECT_THAT(Refusal(spec, [&name = name](RawTensors& tensors) { tensors.erase(name); }),
                HasSubstr("tensor " + name + " is missing"));
  }
}

TEST_F(Weights, RefusesMisshapedTensors) {
  EXPECT_THAT(Refusal(TinySpec(),
                      [](RawTensors& tensors) {
                        tensors["model.layers.1.self_attn.r_proj.weight"].shape = {64, 256};
                      }),
              HasSubstr("tensor model.layers.1.self_attn.r_proj.weight: shape [64, 256], but "
                        "config.json asks for [128, 128]"));
}

TEST_F(Weights, RefusesExtraTensors) {
  const RawTensor scalar = {"F32", {1}, std::string(4, '\0')};
  for (const char* name :
       {"model.layers.2.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias", "x"}) {
    EXPECT_THAT(Refusal(TinySpec(), [&](RawTensors& tensors) { tensors[name] = scalar; }),
                HasSubstr(name));
  }
  // A softmax model has no use for a probe.
  EXPECT_THAT(Refusal(TinySpec("Qwen3ForCausalLM"),
                      [&](RawTensors& tensors) {
                        tensors["model.layers.0.self_attn.r_proj.weight"] = scalar;
                      }),
              HasSubstr("r_proj"));
}

TEST_F(Weights, RefusesOtherDTypes) {
  EXPECT_THAT(Refusal(TinySpec(),
                      [](RawTensors& tensors) {
                        RawTensor& norm = tensors["model.norm.weight"];
                        norm.dtype = "F64";
                        norm.bytes.assign(8 * 128, '\0');
                      }),
              HasSubstr("tensor model.norm.weight: dtype F64"));
}

TEST_F(Weights, OnlyOneRankIsImplemented) {
  const CheckpointSpec spec = TinySpec();
  const auto loaded = Load(spec, ToRawTensors(spec, MakeTensors(spec)), {1, 2});
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("rank 1 of 2"));
}

}  // namespace
}  // namespace parallax
