// ModelRunnerTest: one small random model behind the backend under test.
//
// Each test program links one definition of Backend(): the same tests run on the CPU, and on a
// GPU.
//
// Thread safety: none needed.
#ifndef PARALLAX_TESTS_ENGINE_RUNNER_MODEL_RUNNER_FIXTURE_H_
#define PARALLAX_TESTS_ENGINE_RUNNER_MODEL_RUNNER_FIXTURE_H_

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/runner/model_runner_factory.h"
#include "gtest/gtest.h"
#include "kernels/philox.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/runner/runner_driver.h"

namespace parallax::testing {

struct BackendUnderTest {
  RunnerDevice device = RunnerDevice::kCpu;
  std::string checkpoint_dtype;  // no wider than what the backend computes with
  kernels::DType kv_cache_dtype = kernels::DType::kFloat32;
  /// A sequence's tokens do not depend, by a bit, on who else is in its steps.
  bool batch_invariant = false;
  // Against the fp64 reference:
  double logprob_tolerance = 0.0;
  double mass_tolerance = 0.0;  // of the probability of a token and all with lower ids
};
BackendUnderTest Backend();

class ModelRunnerTest : public ::testing::Test {
 protected:
  static constexpr int kVocab = 96;

  ModelRunnerTest() : spec_(Spec()), tensors_(WriteRandomCheckpoint(spec_, folder_.path())) {}

  static CheckpointSpec Spec() {
    CheckpointSpec spec = TinySpec();
    spec.dtype = Backend().checkpoint_dtype;
    spec.shape.vocab = kVocab;
    return spec;
  }

  ModelRunnerOptions Options() const {
    ModelRunnerOptions options;
    options.model = folder_.path();
    options.device = Backend().device;
    options.kv_cache_dtype = Backend().kv_cache_dtype;
    options.num_threads = 2;
    options.max_model_len = 512;
    options.max_num_seqs = 8;
    options.max_num_batched_tokens = 256;
    options.num_kv_pages = 64;
    return options;
  }

  std::unique_ptr<ModelRunner> MakeRunner(const ModelRunnerOptions& options) {
    auto runner = CreateModelRunner(options);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return *std::move(runner);
  }
  std::unique_ptr<ModelRunner> MakeRunner() { return MakeRunner(Options()); }

  static DrivenSequence Prompt(int length, uint64_t seed = 1) {
    std::mt19937_64 random(seed);
    DrivenSequence sequence;
    for (int i = 0; i < length; ++i)
      sequence.prompt.push_back(static_cast<int32_t>(random() % kVocab));
    sequence.params.temperature = 0;
    sequence.params.max_tokens = 100;
    return sequence;
  }

  // What the sequence generates with nobody else around.
  std::vector<int32_t> Alone(DrivenSequence sequence, int tokens) {
    const auto runner = MakeRunner();
    RunnerDriver driver(*runner);
    driver.Attach(sequence, 0);
    driver.Generate(sequence, tokens);
    return sequence.generated;
  }

  // The sequence was not disturbed by what else was in its steps. Where the backend is not batch
  // invariant, each token must be what the reference makes of those before it: the most likely,
  // or the one that the sequence's own random number falls on. REQUIRES: no penalties then.
  void ExpectUndisturbed(const DrivenSequence& sequence, const std::vector<int32_t>& alone) {
    ASSERT_EQ(sequence.generated.size(), alone.size());
    if (Backend().batch_invariant) {
      EXPECT_EQ(sequence.generated, alone);
      return;
    }
    std::vector<int32_t> tokens = sequence.prompt;
    tokens.insert(tokens.end(), sequence.generated.begin(), sequence.generated.end());
    const ReferenceModel::Rows logits = ReferenceModel(spec_.shape, tensors_).Logits(tokens);
    for (size_t i = 0; i < sequence.generated.size(); ++i) {
      ExpectChoice(sequence, i, logits[sequence.prompt.size() - 1 + i]);
    }
  }

  static void ExpectChoice(const DrivenSequence& sequence, size_t i,
                           const std::vector<double>& logits) {
    const int32_t token = sequence.generated[i];
    const double most = *std::max_element(logits.begin(), logits.end());
    if (sequence.params.temperature == 0.0f) {
      EXPECT_GE(logits[token], most - Backend().logprob_tolerance) << "token " << i;
      return;
    }
    double sum = 0.0;
    double below = 0.0;  // of ids below the token's
    double through = 0.0;
    for (size_t id = 0; id < logits.size(); ++id) {
      if (id == static_cast<size_t>(token)) below = sum;
      sum += std::exp((logits[id] - most) / sequence.params.temperature);
      if (id == static_cast<size_t>(token)) through = sum;
    }
    const double drawn =
        kernels::UniformDraw(sequence.params.seed, sequence.choice_index, static_cast<uint32_t>(i));
    EXPECT_GE(drawn, below / sum - Backend().mass_tolerance) << "token " << i;
    EXPECT_LE(drawn, through / sum + Backend().mass_tolerance) << "token " << i;
  }

  const CheckpointSpec spec_;
  const TempFolder folder_;
  const ReferenceModel::Tensors tensors_;
};

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_RUNNER_MODEL_RUNNER_FIXTURE_H_
