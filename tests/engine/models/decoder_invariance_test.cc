// Bit for bit: a row's logits depend on its own sequence alone.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/models/decoder_harness.h"

namespace parallax::testing {
namespace {

class DecoderInvariance : public ::testing::TestWithParam<int> {  // sliding window
 protected:
  DecoderInvariance() {
    spec_.dtype = "BF16";
    spec_.shape.windows.assign(spec_.shape.layers, GetParam());
    WriteRandomCheckpoint(spec_, folder_.path());
    tokens_ = RandomTokens(random_, 200, spec_.shape.vocab);
    DecoderHarness harness(folder_.path(), options_);
    HarnessSequence alone{.tokens = tokens_};
    harness.Run(alone, 512);
    expected_ = alone.logits;
  }

  HarnessSequence Sequence() const { return {.tokens = tokens_}; }
  HarnessSequence Stranger(int length) {
    return {.tokens = RandomTokens(random_, length, spec_.shape.vocab)};
  }

  CheckpointSpec spec_ = TinySpec();
  const TempFolder folder_;
  std::mt19937_64 random_{11};
  HarnessOptions options_ = {.kv_dtype = kernels::DType::kBFloat16};
  std::vector<int32_t> tokens_;
  std::vector<std::vector<float>> expected_;
};

TEST_P(DecoderInvariance, OfChunks) {
  for (const int chunk : {1, 7, 64, 65, 199}) {
    DecoderHarness harness(folder_.path(), options_);
    HarnessSequence sequence = Sequence();
    harness.Run(sequence, chunk);
    EXPECT_EQ(sequence.logits, expected_) << "chunk " << chunk;
  }
}

TEST_P(DecoderInvariance, OfThreadsAndPageNumbers) {
  for (const int threads : {1, 3, 4}) {
    options_.threads = threads;
    options_.seed = 100 + threads;
    DecoderHarness harness(folder_.path(), options_);
    HarnessSequence sequence = Sequence();
    harness.Run(sequence, 512);
    EXPECT_EQ(sequence.logits, expected_) << "threads " << threads;
  }
}

TEST_P(DecoderInvariance, OfTheBatch) {
  DecoderHarness harness(folder_.path(), options_);
  HarnessSequence sequence = Sequence();
  std::vector<HarnessSequence> strangers;
  for (const int length : {1, 20, 64, 90, 130}) strangers.push_back(Stranger(length));
  int next_chunk = 1;
  while (sequence.computed < static_cast<int32_t>(tokens_.size())) {
    std::vector<std::pair<HarnessSequence*, int32_t>> chunks;
    const auto add = [&chunks](HarnessSequence& s, int32_t count) {
      const auto left = static_cast<int32_t>(s.tokens.size()) - s.computed;
      if (left > 0) chunks.emplace_back(&s, std::min(count, left));
    };
    add(strangers[0], 1);
    add(strangers[1], 3);
    add(sequence, next_chunk);
    add(strangers[2], 1);
    add(strangers[3], 40);
    add(strangers[4], 13);
    harness.Step(chunks);
    next_chunk = next_chunk * 2 % 61 + 1;
  }
  EXPECT_EQ(sequence.logits, expected_);
}

INSTANTIATE_TEST_SUITE_P(Windows, DecoderInvariance, ::testing::Values(0, 50),
                         [](const auto& info) { return "Window" + std::to_string(info.param); });

// The same weights under fla's names and options are the same model.
TEST(DecoderConventions, FlaAndQwen3Agree) {
  CheckpointSpec qwen = TinySpec("ParallaxQwen3ForCausalLM");
  qwen.dtype = "BF16";
  qwen.shape.norm_eps = qwen.shape.qk_norm_eps = 1e-5;  // fla's head norms know no other
  CheckpointSpec fla = qwen;
  fla.architecture = "ParallaxForCausalLM";
  const TempFolder qwen_folder;
  const TempFolder fla_folder;
  WriteRandomCheckpoint(qwen, qwen_folder.path());
  WriteRandomCheckpoint(fla, fla_folder.path());
  DecoderHarness qwen_harness(qwen_folder.path(), {});
  DecoderHarness fla_harness(fla_folder.path(), {});
  std::mt19937_64 random(12);
  HarnessSequence a{.tokens = RandomTokens(random, 70, qwen.shape.vocab)};
  HarnessSequence b{.tokens = a.tokens};
  qwen_harness.Run(a, 512);
  fla_harness.Run(b, 512);
  EXPECT_EQ(a.logits, b.logits);
}

// With r = 0 a Parallax model is the softmax model of its other weights.
TEST(DecoderConventions, ZeroProbeIsSoftmax) {
  CheckpointSpec parallax = TinySpec("ParallaxQwen3ForCausalLM");
  CheckpointSpec softmax = TinySpec("Qwen3ForCausalLM");
  ReferenceModel::Tensors tensors = MakeTensors(parallax);
  ReferenceModel::Tensors without_probe;
  for (auto& [name, tensor] : tensors) {
    if (name.find("r_proj") != std::string::npos) {
      tensor.values.assign(tensor.values.size(), 0.0);
    } else if (name.find("r_norm") == std::string::npos) {
      without_probe[name] = tensor;
    }
  }
  const TempFolder parallax_folder;
  const TempFolder softmax_folder;
  WriteCheckpoint(parallax, ToRawTensors(parallax, tensors), parallax_folder.path());
  WriteCheckpoint(softmax, ToRawTensors(softmax, without_probe), softmax_folder.path());
  DecoderHarness parallax_harness(parallax_folder.path(), {});
  DecoderHarness softmax_harness(softmax_folder.path(), {});
  std::mt19937_64 random(13);
  HarnessSequence a{.tokens = RandomTokens(random, 70, parallax.shape.vocab)};
  HarnessSequence b{.tokens = a.tokens};
  parallax_harness.Run(a, 512);
  softmax_harness.Run(b, 512);
  for (size_t i = 0; i < a.logits.size(); ++i) {
    EXPECT_LE(RelativeError(a.logits[i], {b.logits[i].begin(), b.logits[i].end()}), 1e-5);
  }
}

}  // namespace
}  // namespace parallax::testing
