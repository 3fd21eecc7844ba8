// The GPU's logits against the CPU's, of the whole default model, at 64 x 128 positions of text
// that the model itself continues greedily on the CPU.
//
// The CPU computes in float32 and is within 1e-3 of the fp64 reference (decoder_reference_test),
// twenty times closer than bfloat16 activations allow; it stands for the truth here.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/runner/model_runner_factory.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/cuda/cuda_decoder_harness.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/runner/runner_driver.h"
#include "tests/reference/reference_model.h"

namespace parallax::testing {
namespace {

constexpr char kFolder[] = "models/parallax-stories-14m";
constexpr int kSequences = 64;
constexpr int kPositions = 128;
constexpr int kPromptTokens = 8;

// max|d| / max|ref| allowed: 1.5 times what bfloat16 costs in PyTorch, which
// torch_bf16_logits.py beside this file measured on an H200 (PyTorch 2.11: 1.051e-2, the same
// argmax at 99.33 %).
constexpr double kLogitsBar = 1.5 * 1.051e-2;

// Openings of eight tokens from the golden continuations, continued greedily by the CPU.
std::vector<HarnessSequence> GreedyTexts() {
  std::ifstream file(std::string(kFolder) + "/testdata/golden.json");
  const auto continuations =
      nlohmann::json::parse(std::string(std::istreambuf_iterator<char>(file), {}))["continuations"];
  ModelRunnerOptions options;
  options.model = kFolder;
  options.device = RunnerDevice::kCpu;
  options.max_num_seqs = kSequences;
  options.max_num_batched_tokens = kSequences * kPromptTokens;
  options.num_kv_pages = kSequences * 4;
  auto runner = CreateModelRunner(options);
  if (!runner.ok()) throw std::runtime_error(runner.status().ToString());
  RunnerDriver driver(**runner);
  std::vector<DrivenSequence> texts(kSequences);
  for (int i = 0; i < kSequences; ++i) {
    const auto& source = continuations[i % continuations.size()];
    auto tokens = source["prompt_ids"].get<std::vector<int32_t>>();
    const auto output = source["output_ids"].get<std::vector<int32_t>>();
    tokens.insert(tokens.end(), output.begin(), output.end());
    const size_t first =
        std::min<size_t>(i / continuations.size() * 3, tokens.size() - kPromptTokens);
    texts[i].prompt.assign(tokens.begin() + first, tokens.begin() + first + kPromptTokens);
    texts[i].params.temperature = 0;
    driver.Attach(texts[i], i);
  }
  while (texts[0].length() < kPositions) {
    for (DrivenSequence& text : texts) driver.Add(text, text.length() - text.computed);
    driver.Step();
  }
  std::vector<HarnessSequence> sequences(kSequences);
  for (int i = 0; i < kSequences; ++i) {
    for (int t = 0; t < kPositions; ++t) sequences[i].tokens.push_back(texts[i].TokenAt(t));
  }
  return sequences;
}

struct Agreement {
  double worst_error = 0.0;    // max|d|
  double largest_logit = 0.0;  // max|ref|
  int positions = 0;
  int same_argmax = 0;
  double widest_missed_gap = 0.0;  // between the truth's top two where the argmax differs

  double relative_error() const { return worst_error / largest_logit; }
};

void Compare(const std::vector<float>& logits, const std::vector<float>& truth, Agreement& sum) {
  size_t best = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    sum.worst_error = std::max<double>(sum.worst_error, std::abs(logits[i] - truth[i]));
    sum.largest_logit = std::max<double>(sum.largest_logit, std::abs(truth[i]));
    if (truth[i] > truth[best]) best = i;
  }
  const size_t chosen = std::max_element(logits.begin(), logits.end()) - logits.begin();
  ++sum.positions;
  sum.same_argmax += chosen == best ? 1 : 0;
  sum.widest_missed_gap = std::max<double>(sum.widest_missed_gap, truth[best] - truth[chosen]);
}

class WholeModel : public ::testing::Test {
 protected:
  // Made once: the CPU takes seconds for it.
  static const std::vector<HarnessSequence>& Truth() {
    static const auto* const truth = [] {
      auto* sequences = new std::vector<HarnessSequence>(GreedyTexts());
      HarnessOptions options;
      options.num_pages = kSequences * 4;
      options.threads = 8;
      DecoderHarness harness(kFolder, options);
      for (HarnessSequence& sequence : *sequences) harness.Run(sequence, kPositions);
      return sequences;
    }();
    return *truth;
  }

  static Agreement CompareAll(const std::vector<HarnessSequence>& sequences) {
    Agreement sum;
    for (int s = 0; s < kSequences; ++s) {
      for (int t = 0; t < kPositions; ++t) {
        Compare(sequences[s].logits[t], Truth()[s].logits[t], sum);
      }
    }
    std::cout << "max|d|/max|ref| " << sum.relative_error() << ", same argmax at "
              << sum.same_argmax << " of " << sum.positions << ", widest missed gap "
              << sum.widest_missed_gap << '\n';
    return sum;
  }

  static void ExpectAgreement(const std::vector<HarnessSequence>& sequences) {
    const Agreement sum = CompareAll(sequences);
    EXPECT_LE(sum.relative_error(), kLogitsBar);
    EXPECT_GE(sum.same_argmax, 0.99 * sum.positions);
    EXPECT_LE(sum.widest_missed_gap, 0.05);
  }

  static std::vector<HarnessSequence> Inputs() {
    std::vector<HarnessSequence> sequences(kSequences);
    for (int s = 0; s < kSequences; ++s) sequences[s].tokens = Truth()[s].tokens;
    return sequences;
  }
};

TEST_F(WholeModel, PrefillInChunksAgreesWithTheCpu) {
  std::vector<HarnessSequence> sequences = Inputs();
  CudaDecoderHarness harness(kFolder);
  for (int done = 0; done < kPositions; done += 16) harness.Step(sequences, 16);
  ExpectAgreement(sequences);
}

TEST_F(WholeModel, DecodeOfManyAgreesWithTheCpu) {
  std::vector<HarnessSequence> sequences = Inputs();
  CudaDecoderHarness harness(kFolder);
  for (int done = 0; done < kPositions; ++done) harness.Step(sequences, 1);
  ExpectAgreement(sequences);
}

// Few enough sequences for the other kernels of the linear layers.
TEST_F(WholeModel, DecodeOfFewAgreesWithTheCpu) {
  std::vector<HarnessSequence> sequences = Inputs();
  CudaDecoderHarness harness(kFolder);
  for (size_t first = 0; first < sequences.size(); first += 16) {
    std::vector<HarnessSequence> few(sequences.begin() + first, sequences.begin() + first + 16);
    for (int done = 0; done < kPositions; ++done) harness.Step(few, 1);
    std::move(few.begin(), few.end(), sequences.begin() + first);
  }
  ExpectAgreement(sequences);
}

// Shapes that the default model does not have, against the fp64 reference.
class RandomModel : public ::testing::TestWithParam<CheckpointSpec> {};

TEST_P(RandomModel, AgreesWithTheReference) {
  const CheckpointSpec& spec = GetParam();
  const TempFolder folder;
  const ReferenceModel reference(spec.shape, WriteRandomCheckpoint(spec, folder.path()));
  std::mt19937_64 random(5);
  std::vector<HarnessSequence> sequences(3);
  for (HarnessSequence& sequence : sequences) {
    sequence.tokens = RandomTokens(random, 80, spec.shape.vocab);
  }
  CudaDecoderHarness harness(folder.path());
  harness.Step(sequences, 70);
  for (int i = 0; i < 10; ++i) harness.Step(sequences, 1);
  for (const HarnessSequence& sequence : sequences) {
    const ReferenceModel::Rows expected = reference.Logits(sequence.tokens);
    std::vector<float> all;
    std::vector<double> all_expected;
    for (const auto& row : sequence.logits) all.insert(all.end(), row.begin(), row.end());
    for (const auto& row : expected)
      all_expected.insert(all_expected.end(), row.begin(), row.end());
    const double error = RelativeError(all, all_expected);
    std::cout << "max|d|/max|ref| " << error << '\n';
    EXPECT_LE(error, 4e-2);
  }
}

CheckpointSpec Spec(const std::string& architecture, int kv_heads, int head_dim, bool probe) {
  CheckpointSpec spec = TinySpec(architecture);
  spec.dtype = "BF16";
  spec.shape.vocab = 256;
  spec.shape.hidden = 256;
  spec.shape.heads = 4;
  spec.shape.kv_heads = kv_heads;
  spec.shape.head_dim = head_dim;
  spec.shape.intermediate = 512;
  spec.shape.probe = probe;
  return spec;
}

CheckpointSpec WithBiases(CheckpointSpec spec) {
  spec.shape.qkv_bias = true;
  spec.shape.o_bias = true;
  spec.shape.mlp_bias = spec.architecture == "LlamaForCausalLM";  // Qwen3 has none
  return spec;
}

INSTANTIATE_TEST_SUITE_P(Shapes, RandomModel,
                         ::testing::Values(Spec("ParallaxQwen3ForCausalLM", 2, 128, true),
                                           Spec("ParallaxQwen3ForCausalLM", 4, 64, true),
                                           WithBiases(Spec("ParallaxQwen3ForCausalLM", 1, 128,
                                                           true)),
                                           Spec("Qwen3ForCausalLM", 2, 128, false),
                                           WithBiases(Spec("LlamaForCausalLM", 2, 64, false))));

// Sequences that decode beside others whose prompts come in chunks. One seed makes one course of
// steps: two decoders that compute the same bits keep the same caches.
class MixedCourse {
 public:
  static constexpr int kContext = 2048;
  static constexpr int kDecoding = 40;
  static constexpr int kPrompts = 4;

  MixedCourse(uint64_t seed, int64_t vocab) : random_(seed) {
    sequences_.resize(kDecoding + kPrompts);
    for (HarnessSequence& sequence : sequences_) {
      sequence.tokens = RandomTokens(random_, kContext, vocab);
    }
  }

  // Contexts long enough for decode attention to outlast that of a short chunk by far.
  void Prefill(CudaDecoderHarness& harness) {
    constexpr int kChunk = CudaDecoderHarness::kMaxTokens;
    for (int s = 0; s < kDecoding; ++s) {
      const int length = Between(kContext / 2, kContext - 256);
      for (int done = 0; done < length; done += kChunk) {
        std::vector<int32_t> counts(sequences_.size());
        counts[s] = std::min(kChunk, length - done);
        harness.Launch(sequences_, counts);
        harness.Collect();
      }
    }
  }

  // Steps right behind each other, every one with both kinds; the logits of each chunk's end.
  std::vector<std::vector<float>> Run(CudaDecoderHarness& harness) {
    for (int step = 0; step < CudaDecoderHarness::kMaxInFlight; ++step) {
      harness.Launch(sequences_, NextCounts());
    }
    return harness.Collect();
  }

 private:
  int Between(int least, int most) {
    return least + static_cast<int>(random_() % static_cast<uint64_t>(most - least + 1));
  }

  // Now and then one row decodes, and chunks are of a few rows or of hundreds.
  std::vector<int32_t> NextCounts() {
    std::vector<int32_t> counts(sequences_.size());
    const int decoding = Between(0, 3) == 0 ? Between(1, 4) : Between(kDecoding / 2, kDecoding);
    for (int s = 0; s < decoding; ++s) counts[s] = 1;
    const int prompts = Between(1, kPrompts);
    const int most = Between(0, 1) == 0 ? 8 : 240;
    for (int p = 0; p < prompts; ++p) counts[kDecoding + p] = Between(2, most);
    for (size_t s = 0; s < sequences_.size(); ++s) {
      HarnessSequence& sequence = sequences_[s];
      if (sequence.computed + counts[s] > kContext) {
        sequence.computed = s < kDecoding ? kContext / 2 : 0;
      }
    }
    return counts;
  }

  std::mt19937_64 random_;
  std::vector<HarnessSequence> sequences_;
};

class BothAttentions : public ::testing::TestWithParam<CheckpointSpec> {
 protected:
  // The same course with both at once and one by one.
  static void ExpectSameBits(bool captured, int rounds) {
    const TempFolder folder;
    WriteRandomCheckpoint(GetParam(), folder.path());
    CudaDecoderHarness at_once(folder.path(),
                               {.max_context = MixedCourse::kContext, .captured = captured});
    CudaDecoderHarness one_by_one(
        folder.path(), {.max_context = MixedCourse::kContext, .overlap_attention = false});
    MixedCourse course(3, GetParam().shape.vocab);
    MixedCourse same_course(3, GetParam().shape.vocab);
    course.Prefill(at_once);
    same_course.Prefill(one_by_one);
    for (int round = 0; round < rounds; ++round) {
      const auto logits = course.Run(at_once);
      const auto expected = same_course.Run(one_by_one);
      ASSERT_EQ(logits.size(), expected.size());
      for (size_t row = 0; row < logits.size(); ++row) {
        ASSERT_EQ(logits[row], expected[row]) << "of round " << round << ", row " << row;
      }
    }
  }
};

// Each kernel computes what it does alone, so nothing but a missing wait can change a bit: an
// output projection that waits for decode alone may see rows of the layer before, a decode kernel
// that is let in too early queries that are not normed and rotated yet.
TEST_P(BothAttentions, AtOnceComputeWhatTheyDoOneByOne) { ExpectSameBits(false, 100); }

TEST_P(BothAttentions, AtOnceInAGraphComputeWhatTheyDoOneByOne) { ExpectSameBits(true, 5); }

INSTANTIATE_TEST_SUITE_P(Shapes, BothAttentions,
                         ::testing::Values(Spec("ParallaxQwen3ForCausalLM", 4, 128, true),
                                           Spec("ParallaxQwen3ForCausalLM", 2, 64, true),
                                           Spec("Qwen3ForCausalLM", 2, 128, false)));

}  // namespace
}  // namespace parallax::testing
