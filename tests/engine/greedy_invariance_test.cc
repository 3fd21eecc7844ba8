// A request's tokens depend on nothing but the request: bit for bit, on a real model.
//
// Subjects of many lengths, greedy and sampled, are run alone, then among strangers, in
// chunks of many sizes, with and without prefix hits, with a page pool so small that they
// are preempted, and with two choices sharing a prompt. Every way gives the same tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/runner/model_runner_factory.h"
#include "engine/token_sink.h"
#include "tests/engine/models/checkpoint_writer.h"
#include "tests/engine/recording_sink.h"

namespace parallax {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int32_t kVocab = 97;
constexpr int32_t kSubjectTokens = 24;

struct Setting {
  int32_t num_strangers = 0;
  int32_t max_prefill_chunk = 0;
  int32_t num_pages = 512;
  int32_t num_threads = 1;
  bool prefix_cache = false;
  bool all_at_once = false;  // the engine goes on only when all are submitted
};

// Holds up the engine, whose thread calls it, from its request's first token until it is opened.
class Gate final : public TokenSink {
 public:
  void Open() { opened_.count_down(); }
  void OnStart(RequestStart) override { opened_.wait(); }
  void OnDelta(OutputDelta) override {}
  void OnDone(absl::Status) override {}

 private:
  std::latch opened_{1};
};

class GreedyInvarianceTest : public ::testing::Test {
 protected:
  GreedyInvarianceTest() {
    WriteRandomCheckpoint(testing::TinySpec(), folder_.path());
    for (const int32_t length : {1, 2, 63, 64, 65, 129, 200}) {
      for (const bool greedy : {true, false}) subjects_.push_back(Subject(length, greedy));
    }
    for (const Request& subject : subjects_) alone_.push_back(RunAll({}, {subject})[0]);
  }

  static Tokens RandomPrompt(int32_t length, uint64_t seed) {
    std::mt19937_64 random(seed);
    Tokens prompt(length);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % kVocab);
    return prompt;
  }

  static Request Subject(int32_t length, bool greedy) {
    Request request;
    request.id = absl::StrCat("subject-", length, greedy ? "-greedy" : "-sampled");
    request.prompt = RandomPrompt(length, 1000 + length);
    request.sampling.max_tokens = kSubjectTokens;
    request.sampling.seed = length;
    request.sampling.temperature = greedy ? 0.0f : 0.9f;
    if (!greedy) {
      request.sampling.top_p = 0.95f;
      request.sampling.repetition_penalty = 1.1f;
      request.sampling.frequency_penalty = 0.2f;
    }
    return request;
  }

  static Request Stranger(int32_t index) {
    Request request;
    request.id = absl::StrCat("stranger-", index);
    request.prompt = RandomPrompt(1 + index * 37 % 150, index);
    request.sampling.max_tokens = 5 + index % 30;
    request.sampling.seed = index;
    request.sampling.n = 1 + index % 2;
    return request;
  }

  std::unique_ptr<Engine> MakeEngine(const Setting& setting) const {
    ModelRunnerOptions model;
    model.model = folder_.path();
    model.num_threads = setting.num_threads;
    model.max_model_len = 256;
    model.max_num_seqs = 64;
    model.max_num_batched_tokens = 256;
    model.num_kv_pages = setting.num_pages;
    auto runner = CreateModelRunner(model);
    EXPECT_TRUE(runner.ok()) << runner.status();
    EngineOptions options;
    options.max_prefill_chunk = setting.max_prefill_chunk;
    options.enable_prefix_cache = setting.prefix_cache;
    auto engine = Engine::Create(options, *std::move(runner), nullptr, nullptr);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  /// The tokens of choice 0 of each request; strangers are submitted in between.
  std::vector<Tokens> RunAll(const Setting& setting, const std::vector<Request>& requests) {
    const std::unique_ptr<Engine> engine = MakeEngine(setting);
    return RunIn(engine.get(), setting, requests);
  }

  std::vector<Tokens> RunIn(Engine* engine, const Setting& setting,
                            const std::vector<Request>& requests) {
    const auto gate = std::make_shared<Gate>();
    if (setting.all_at_once) {
      Request first;
      first.id = "gate";
      first.prompt = {1};
      first.sampling.max_tokens = 1;
      EXPECT_TRUE(engine->Submit(std::move(first), gate).ok());
    }
    std::vector<std::shared_ptr<RecordingSink>> strangers;
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    const int32_t between = setting.num_strangers / static_cast<int32_t>(requests.size());
    for (const Request& request : requests) {
      for (int32_t i = 0; i < between; ++i) {
        const auto index = static_cast<int32_t>(strangers.size());
        strangers.push_back(Submit(engine, Stranger(index)));
      }
      sinks.push_back(Submit(engine, request));
    }
    gate->Open();
    std::vector<Tokens> tokens;
    for (const auto& sink : sinks) tokens.push_back(sink->Await().choices[0].token_ids);
    for (const auto& stranger : strangers) stranger->Await();
    last_ = engine->Stats();
    return tokens;
  }

  static std::shared_ptr<RecordingSink> Submit(Engine* engine, const Request& request) {
    auto sink = std::make_shared<RecordingSink>(request.sampling.n);
    const absl::Status status = engine->Submit(request, sink);
    EXPECT_TRUE(status.ok()) << status;
    return sink;
  }

  void ExpectAsAlone(const std::vector<Tokens>& got) {
    ASSERT_EQ(got.size(), subjects_.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], alone_[i]) << subjects_[i].id;
  }

  testing::TempFolder folder_;
  std::vector<Request> subjects_;
  std::vector<Tokens> alone_;
  EngineStats last_;
};

TEST_F(GreedyInvarianceTest, SubjectsDiffer) {
  for (const Tokens& tokens : alone_) EXPECT_EQ(tokens.size(), kSubjectTokens);
  EXPECT_NE(alone_[6], alone_[7]);  // the sampled one is not the greedy one
}

TEST_F(GreedyInvarianceTest, AmongStrangers) {
  ExpectAsAlone(RunAll({.num_strangers = 64}, subjects_));
  ExpectAsAlone(RunAll({.num_strangers = 64, .num_threads = 2}, subjects_));
}

TEST_F(GreedyInvarianceTest, InChunksOfAnySize) {
  for (const int32_t chunk : {1, 7, 63, 64, 65, 100}) {
    SCOPED_TRACE(absl::StrCat("chunk ", chunk));
    ExpectAsAlone(RunAll({.max_prefill_chunk = chunk}, subjects_));
  }
}

TEST_F(GreedyInvarianceTest, WithPrefixHits) {
  const Setting setting{.prefix_cache = true};
  const std::unique_ptr<Engine> engine = MakeEngine(setting);
  ExpectAsAlone(RunIn(engine.get(), setting, subjects_));
  const uint64_t hits = last_.prefix_cache_hit_tokens;
  ExpectAsAlone(RunIn(engine.get(), setting, subjects_));
  EXPECT_GT(last_.prefix_cache_hit_tokens, hits);
}

TEST_F(GreedyInvarianceTest, AfterPreemptions) {
  for (const bool prefix_cache : {false, true}) {
    // The subjects want 34 pages at their ends and 29 at their starts. The later ones start before
    // the earlier ones have grown, or nobody would have to give way.
    const Setting setting{.num_pages = 12, .prefix_cache = prefix_cache, .all_at_once = true};
    ExpectAsAlone(RunAll(setting, subjects_));
    EXPECT_GT(last_.preemptions, 0u);
  }
}

TEST_F(GreedyInvarianceTest, WithChoicesThatShareThePrompt) {
  std::vector<Request> forked = subjects_;
  for (Request& request : forked) request.sampling.n = 3;
  ExpectAsAlone(RunAll({}, forked));
}

}  // namespace
}  // namespace parallax
