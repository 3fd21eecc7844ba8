#include "kernels/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/kernels/sampling_harness.h"

namespace parallax::kernels {
namespace {

SampleResult SampleOne(const std::vector<float>& logits, const SamplingRow& row,
                       int64_t token_limit = -1) {
  return RunSample({logits}, {row}, token_limit).front();
}

SamplingRow Greedy() {
  SamplingRow row;
  row.temperature = 0.0f;
  return row;
}

TEST(SamplingTest, GreedyTakesTheLowestOfEquals) {
  for (int vocab : {3, 16, 17, 100, 5000}) {
    std::vector<float> logits(vocab, -1.0f);
    logits[vocab / 2] = logits[vocab - 1] = 2.0f;
    EXPECT_EQ(SampleOne(logits, Greedy()).token, vocab / 2);
  }
}

TEST(SamplingTest, GreedyFollowsTransforms) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, 2.5f, 10.0f};
  constexpr int64_t kLimit = 4;  // token 4 is outside the tokenizer
  SamplingRow row = Greedy();
  EXPECT_EQ(SampleOne(logits, row, kLimit).token, 1);
  const std::vector<int32_t> banned = {1};
  row.banned_ids = banned;
  EXPECT_EQ(SampleOne(logits, row, kLimit).token, 3);
  const std::vector<LogitBias> bias = {{0, 5.0f}, {1, 100.0f}};
  row.logit_bias = bias;
  EXPECT_EQ(SampleOne(logits, row, kLimit).token, 0);
  const std::vector<uint32_t> mask = {0b01100};
  row.allowed_mask = mask;
  EXPECT_EQ(SampleOne(logits, row, kLimit).token, 3);
}

TEST(SamplingTest, LogprobsAreThoseOfTheRawLogits) {
  std::mt19937 rng(1);
  std::vector<float> logits = RandomLogits(1000, 3.0f, rng);
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(double{logit});
  SamplingRow row;
  row.temperature = 0.3f;
  row.top_p = 0.9f;
  row.num_top_logprobs = 7;
  const std::vector<LogitBias> bias = {{5, 20.0f}};
  row.logit_bias = bias;
  const SampleResult result = SampleOne(logits, row, 990);
  EXPECT_EQ(result.token, 5);
  EXPECT_NEAR(result.logprob, logits[5] - std::log(sum), 1e-5);
  ASSERT_EQ(result.top_count, 7);
  std::vector<int32_t> order(990);
  for (int i = 0; i < 990; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(result.top[i].token, order[i]);
    EXPECT_NEAR(result.top[i].logprob, logits[order[i]] - std::log(sum), 1e-5);
  }
}

TEST(SamplingTest, TopListRanksLowerIdsFirstOnTies) {
  const std::vector<float> logits = {1.0f, 2.0f, 1.0f, 2.0f, 2.0f, 0.0f};
  SamplingRow row;
  row.num_top_logprobs = 4;
  const SampleResult result = SampleOne(logits, row);
  ASSERT_EQ(result.top_count, 4);
  EXPECT_EQ(result.top[0].token, 1);
  EXPECT_EQ(result.top[1].token, 3);
  EXPECT_EQ(result.top[2].token, 4);
  EXPECT_EQ(result.top[3].token, 0);
}

TEST(SamplingTest, BadLogitsFlagTheirRowOnly) {
  const std::vector<float> good = {0.0f, 1.0f, 2.0f};
  for (float bad : {std::nanf(""), HUGE_VALF}) {
    for (int position : {0, 1, 2}) {
      std::vector<float> logits = good;
      logits[position] = bad;
      const auto results = RunSample({good, logits, good}, {Greedy(), Greedy(), SamplingRow{}});
      EXPECT_EQ(results[0].status, SampleStatus::kOk);
      EXPECT_EQ(results[1].status, SampleStatus::kNan);
      EXPECT_EQ(results[1].token, -1);
      EXPECT_EQ(results[2].status, SampleStatus::kOk);
    }
  }
}

TEST(SamplingTest, OverflowingTransformIsFlagged) {
  SamplingRow row = Greedy();
  const std::vector<LogitBias> bias = {{1, 3e38f}};
  row.logit_bias = bias;
  EXPECT_EQ(SampleOne({0.0f, 3e38f}, row).status, SampleStatus::kNan);
}

TEST(SamplingTest, NothingLeftIsAStatus) {
  const std::vector<int32_t> banned = {0, 1};
  for (float temperature : {0.0f, 1.0f}) {
    SamplingRow row;
    row.temperature = temperature;
    row.top_k = 3;
    row.banned_ids = banned;
    const SampleResult result = SampleOne({1.0f, 2.0f, 3.0f}, row, /*token_limit=*/2);
    EXPECT_EQ(result.status, SampleStatus::kNoTokenLeft);
    EXPECT_EQ(result.token, -1);
  }
}

// Rows with every kind of parameter, sampled together and alone, with one thread and four.
TEST(SamplingTest, RowsDoNotDependOnTheBatch) {
  std::mt19937 rng(2);
  std::vector<std::vector<float>> logits;
  std::vector<SamplingRow> rows;
  for (int i = 0; i < 40; ++i) {
    logits.push_back(RandomLogits(3000, 2.0f, rng));
    SamplingRow row;
    row.temperature = 0.25f * (i % 5);
    row.top_k = i % 3 == 0 ? 0 : 17 * i;
    row.top_p = i % 4 == 0 ? 1.0f : 0.9f;
    row.min_p = i % 7 == 0 ? 0.05f : 0.0f;
    row.seed = i;
    row.position = 3 * i;
    rows.push_back(row);
  }
  const auto together = RunSample(logits, rows, -1, /*threads=*/4);
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleResult alone = RunSample({logits[i]}, {rows[i]}, -1, /*threads=*/1).front();
    EXPECT_EQ(alone.token, together[i].token) << "row " << i;
    EXPECT_EQ(alone.logprob, together[i].logprob) << "row " << i;
  }
}

TEST(SamplingTest, RefusesParametersByName) {
  const std::vector<float> logits(8, 0.0f);
  const auto expect_error = [&](const std::string& name, auto change) {
    SamplingRow row;
    change(row);
    try {
      SampleOne(logits, row);
      FAIL() << name << " was accepted";
    } catch (const KernelError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(name));
    }
  };
  static constexpr LogitBias kBiasOutside[] = {{8, 1.0f}};
  static constexpr int32_t kBannedOutside[] = {-1};
  expect_error("temperature", [](SamplingRow& row) { row.temperature = -1.0f; });
  expect_error("temperature", [](SamplingRow& row) { row.temperature = std::nanf(""); });
  expect_error("top_k", [](SamplingRow& row) { row.top_k = -1; });
  expect_error("top_p", [](SamplingRow& row) { row.top_p = 0.0f; });
  expect_error("top_p", [](SamplingRow& row) { row.top_p = 1.5f; });
  expect_error("min_p", [](SamplingRow& row) { row.min_p = -0.1f; });
  expect_error("repetition_penalty", [](SamplingRow& row) { row.repetition_penalty = 0.0f; });
  expect_error("presence_penalty", [](SamplingRow& row) { row.presence_penalty = HUGE_VALF; });
  expect_error("frequency_penalty", [](SamplingRow& row) { row.frequency_penalty = HUGE_VALF; });
  expect_error("num_top_logprobs", [](SamplingRow& row) { row.num_top_logprobs = 21; });
  expect_error("logit_bias", [](SamplingRow& row) { row.logit_bias = kBiasOutside; });
  expect_error("banned_ids", [](SamplingRow& row) { row.banned_ids = kBannedOutside; });
}

TEST(SamplingTest, RefusesAMaskThatIsTooShort) {
  SamplingRow row;
  const std::vector<uint32_t> mask = {~0u};
  row.allowed_mask = mask;
  EXPECT_THROW(SampleOne(std::vector<float>(33, 0.0f), row), KernelError);
}

}  // namespace
}  // namespace parallax::kernels
