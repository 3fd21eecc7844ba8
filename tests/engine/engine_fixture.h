// EngineFixture: an engine over a FakeModel, with the tally of its observer.
#ifndef PARALLAX_TESTS_ENGINE_ENGINE_FIXTURE_H_
#define PARALLAX_TESTS_ENGINE_ENGINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "tests/engine/counting_observer.h"
#include "tests/engine/fake_model_runner.h"
#include "tests/engine/recording_sink.h"
#include "tests/engine/word_tokenizer.h"

namespace parallax {

class EngineFixture : public ::testing::Test {
 protected:
  EngineFixture() {
    limits.vocab_size = 512;
    limits.max_context_tokens = 2048;
    limits.max_num_seqs = 8;
    limits.max_num_batched_tokens = 64;
    limits.num_pages = 256;
    limits.page_bytes = 64;
  }

  // Every test ends with a healthy backend's contract kept and nothing live uncounted.
  void TearDown() override {
    model->Release();
    engine.reset();
    EXPECT_EQ(model->violation(), "");
    const ObserverCounts counts = observer.Counts();
    EXPECT_EQ(counts.submitted, counts.finished);
    EXPECT_EQ(counts.prompt_tokens_submitted, counts.prompt_tokens_finished);
    EXPECT_EQ(counts.completion_tokens, counts.tokens_generated);
  }

  /// Call after changing limits, options or words.
  void Start() {
    if (!words.empty()) tokenizer = std::make_unique<WordTokenizer>(words);
    auto created = Engine::Create(options, std::make_unique<FakeModelRunner>(limits, model),
                                  tokenizer.get(), &observer);
    ASSERT_TRUE(created.ok()) << created.status();
    engine = std::move(*created);
  }

  Request MakeRequest(int32_t max_tokens = 8, std::vector<int32_t> prompt = {20, 21, 22}) {
    Request request;
    request.id = absl::StrCat("request-", ++requests_made);
    request.prompt = std::move(prompt);
    request.sampling.seed = requests_made;
    request.sampling.max_tokens = max_tokens;
    return request;
  }

  std::shared_ptr<RecordingSink> Submit(Request request) {
    auto sink = std::make_shared<RecordingSink>(request.sampling.n);
    const absl::Status status = engine->Submit(std::move(request), sink);
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) sink->OnDone(status);  // whoever awaits it fails, and does not hang
    return sink;
  }

  Recorded Run(Request request) {
    Recorded recorded = Submit(std::move(request))->Await();
    EXPECT_EQ(recorded.violation, "");
    return recorded;
  }

  /// After AwaitDrained: every page is back, if not at once then when the last step in flight
  /// is completed. A flush is answered between steps, so each one is a step's wait at most.
  void ExpectNothingHeld() {
    do {
      engine->FlushPrefixCache();
    } while (!engine->Stats().idle);
    const EngineStats stats = engine->Stats();
    EXPECT_EQ(stats.gauges.pages_used, 0);
    EXPECT_EQ(stats.gauges.requests_running, 0);
    EXPECT_EQ(stats.gauges.requests_waiting, 0);
  }

  /// What the fake model generates without a script.
  std::vector<int32_t> Expected(uint64_t seed, int32_t choice, int32_t count) const {
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < count; ++i) {
      tokens.push_back(FakeModel::TokenAt(seed, choice, i, limits.vocab_size));
    }
    return tokens;
  }

  RunnerLimits limits;
  EngineOptions options;
  std::vector<std::string> words;
  std::shared_ptr<FakeModel> model = std::make_shared<FakeModel>();
  CountingObserver observer;
  std::unique_ptr<WordTokenizer> tokenizer;
  std::unique_ptr<Engine> engine;
  uint64_t requests_made = 0;
};

}  // namespace parallax

#endif  // PARALLAX_TESTS_ENGINE_ENGINE_FIXTURE_H_
