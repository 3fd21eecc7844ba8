// The engine's logits against the fp64 reference of the whole model.
//
// Weights and KV cache in fp32, so that what is measured is the engine's arithmetic: the bar is
// max|d| / max|ref| <= 1e-3 over all positions of a sequence.
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/models/decoder_harness.h"
#include "tests/reference/reference_model.h"

namespace parallax::testing {
namespace {

constexpr double kBar = 1e-3;

double WorstError(const HarnessSequence& sequence, const ReferenceModel::Rows& expected) {
  std::vector<float> all;
  std::vector<double> all_expected;
  for (const auto& row : sequence.logits) all.insert(all.end(), row.begin(), row.end());
  for (const auto& row : expected) all_expected.insert(all_expected.end(), row.begin(), row.end());
  return RelativeError(all, all_expected);
}

struct Case {
  const char* name;
  CheckpointSpec spec;
};

std::ostream& operator<<(std::ostream& out, const Case& test) { return out << test.name; }

CheckpointSpec Spec(const std::string& architecture, int heads, int kv_heads, int head_dim) {
  CheckpointSpec spec = TinySpec(architecture);
  spec.shape.heads = heads;
  spec.shape.kv_heads = kv_heads;
  spec.shape.head_dim = head_dim;
  // fla's head_dim is hidden / heads; elsewhere the hidden size is free and kept small.
  if (architecture == "ParallaxForCausalLM") spec.shape.hidden = heads * head_dim;
  return spec;
}

template <typename Change>
CheckpointSpec Changed(CheckpointSpec spec, Change change) {
  change(spec.shape);
  return spec;
}

std::vector<Case> Cases() {
  const std::string parallax = "ParallaxQwen3ForCausalLM";
  const std::string fla = "ParallaxForCausalLM";
  const std::string llama = "LlamaForCausalLM";
  const auto window = [](std::vector<int> windows) {
    return [windows](ReferenceShape& s) { s.windows = windows; };
  };
  return {
      {"Group1Dim64", Spec(parallax, 2, 2, 64)},
      {"Group2Dim64", Spec(parallax, 4, 2, 64)},
      {"Group3Dim64", Spec(parallax, 3, 1, 64)},
      {"Group4Dim64", Spec(parallax, 4, 1, 64)},
      {"Group8Dim64", Spec(parallax, 8, 1, 64)},
      {"Group1Dim128", Spec(parallax, 1, 1, 128)},
      {"Group2Dim128", Spec(parallax, 4, 2, 128)},
      {"Group3Dim128", Spec(parallax, 3, 1, 128)},
      {"Group4Dim128", Spec(parallax, 4, 1, 128)},
      {"Group8Dim128", Spec(parallax, 8, 1, 128)},
      {"Fla", Changed(Spec(fla, 2, 2, 64), [](ReferenceShape& s) { s.qk_norm = false; })},
      {"FlaHeadNormsAndBias", Changed(Spec(fla, 4, 2, 64),
                                      [](ReferenceShape& s) {
                                        s.qkv_bias = true;
                                        s.norm_eps = 1e-3;
                                      })},
      {"FlaWindow", Changed(Spec(fla, 3, 1, 64), window({70, 70}))},
      {"WindowOfOnePage", Changed(Spec(parallax, 2, 1, 64), window({64, 64}))},
      {"WindowOfOneKey", Changed(Spec(parallax, 2, 1, 64), window({1, 1}))},
      {"WindowInSomeLayers", Changed(Spec(parallax, 2, 1, 64), window({0, 33}))},
      {"AttentionBias",
       Changed(Spec(parallax, 2, 1, 64), [](ReferenceShape& s) { s.qkv_bias = s.o_bias = true; })},
      {"Tied", Changed(Spec(parallax, 2, 1, 64), [](ReferenceShape& s) { s.tied = true; })},
      {"SoftmaxQwen3", Spec("Qwen3ForCausalLM", 4, 2, 64)},
      {"SoftmaxLlama", Spec(llama, 4, 2, 64)},
      {"LlamaBiases",
       Changed(Spec(llama, 2, 1, 64),
               [](ReferenceShape& s) { s.qkv_bias = s.o_bias = s.mlp_bias = true; })},
      {"LlamaRopeLinear", Changed(Spec(llama, 2, 1, 64),
                                  [](ReferenceShape& s) {
                                    s.rope = ReferenceRope::kLinear;
                                    s.rope_factor = 4;
                                  })},
      {"LlamaRopeLlama3", Changed(Spec(llama, 2, 1, 64),
                                  [](ReferenceShape& s) {
                                    s.rope = ReferenceRope::kLlama3;
                                    s.rope_theta = 500000;
                                    s.rope_factor = 8;
                                    s.rope_original = 256;
                                  })},
  };
}

class DecoderReference : public ::testing::TestWithParam<Case> {};

// Prompt lengths around a page, chunks around it, decode and prefill mixed in one batch.
TEST_P(DecoderReference, LogitsAgree) {
  const CheckpointSpec& spec = GetParam().spec;
  const TempFolder folder;
  const ReferenceModel reference(spec.shape, WriteRandomCheckpoint(spec, folder.path()));
  DecoderHarness harness(folder.path(), {});
  std::mt19937_64 random(spec.seed);

  // One sequence in a single chunk, one in chunks that straddle pages, one token by token from
  // its 64th on beside another's prefill.
  HarnessSequence whole{.tokens = RandomTokens(random, 65, spec.shape.vocab)};
  HarnessSequence chunked{.tokens = RandomTokens(random, 150, spec.shape.vocab)};
  HarnessSequence decoded{.tokens = RandomTokens(random, 68, spec.shape.vocab)};
  harness.Run(whole, 512);
  harness.Step({{&decoded, 63}, {&chunked, 1}});
  harness.Step({{&decoded, 1}, {&chunked, 62}});
  harness.Step({{&decoded, 1}, {&chunked, 2}});
  harness.Step({{&decoded, 1}, {&chunked, 62}});
  harness.Step({{&decoded, 1}, {&chunked, 22}});
  harness.Step({{&decoded, 1}, {&chunked, 1}});
  for (const HarnessSequence* sequence : {&whole, &chunked, &decoded}) {
    ASSERT_EQ(sequence->logits.size(), sequence->tokens.size());
    EXPECT_LE(WorstError(*sequence, reference.Logits(sequence->tokens)), kBar)
        << "length " << sequence->tokens.size();
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DecoderReference, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(DecoderReferenceLengths, AcrossPageBoundaries) {
  const CheckpointSpec spec = TinySpec();
  const TempFolder folder;
  const ReferenceModel reference(spec.shape, WriteRandomCheckpoint(spec, folder.path()));
  DecoderHarness harness(folder.path(), {});
  std::mt19937_64 random(7);
  for (const int length : {1, 2, 63, 64, 65, 127, 128, 129, 191, 300}) {
    HarnessSequence sequence{.tokens = RandomTokens(random, length, spec.shape.vocab)};
    harness.Run(sequence, 128);
    EXPECT_LE(WorstError(sequence, reference.Logits(sequence.tokens)), kBar) << "length " << length;
  }
}

// Stored in 16 bits, the same weights give the same logits: the reference has the rounded ones.
TEST(DecoderReferenceDTypes, HalfPrecisionWeightsAreReadExactly) {
  for (const char* dtype : {"BF16", "F16"}) {
    CheckpointSpec spec = TinySpec();
    spec.dtype = dtype;
    spec.num_shards = 2;
    const TempFolder folder;
    const ReferenceModel reference(spec.shape, WriteRandomCheckpoint(spec, folder.path()));
    DecoderHarness harness(folder.path(), {});
    std::mt19937_64 random(8);
    HarnessSequence sequence{.tokens = RandomTokens(random, 70, spec.shape.vocab)};
    harness.Run(sequence, 512);
    EXPECT_LE(WorstError(sequence, reference.Logits(sequence.tokens)), kBar) << dtype;
  }
}

// A 16-bit cache rounds K and V once; the logits move by no more than that explains.
TEST(DecoderReferenceDTypes, HalfPrecisionCacheStaysClose) {
  const CheckpointSpec spec = TinySpec();
  const TempFolder folder;
  const ReferenceModel reference(spec.shape, WriteRandomCheckpoint(spec, folder.path()));
  std::mt19937_64 random(9);
  const std::vector<int32_t> tokens = RandomTokens(random, 100, spec.shape.vocab);
  const ReferenceModel::Rows expected = reference.Logits(tokens);
  for (const auto& [dtype, bar] :
       {std::pair{kernels::DType::kBFloat16, 4e-2}, {kernels::DType::kFloat16, 5e-3}}) {
    DecoderHarness harness(folder.path(), {.kv_dtype = dtype});
    HarnessSequence sequence{.tokens = tokens};
    harness.Run(sequence, 512);
    EXPECT_LE(WorstError(sequence, expected), bar) << kernels::DTypeName(dtype);
  }
}

}  // namespace
}  // namespace parallax::testing
