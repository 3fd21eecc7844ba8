// Draws against the exact distribution: a chi-square test for each kind of parameter.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/reference/sampling_reference.h"
#include "tests/kernels/sampling_harness.h"

namespace parallax::kernels {
namespace {

using reference::SamplingDistribution;
using reference::SamplingRule;

// The rule in the op's terms; keeps the memory that the row's views refer to.
class RowOfRule {
 public:
  explicit RowOfRule(const SamplingRule& rule) {
    for (const auto& [token, bias] : rule.bias) {
      bias_.push_back({token, static_cast<float>(bias)});
    }
    for (const auto& [token, count] : rule.output_counts) counts_.push_back({token, count});
    for (int token : rule.prompt_tokens) {
      if (!rule.output_counts.contains(token)) counts_.push_back({token, 0});
    }
    banned_.assign(rule.banned.begin(), rule.banned.end());
    row_.temperature = static_cast<float>(rule.temperature);
    row_.top_k = rule.top_k;
    row_.top_p = static_cast<float>(rule.top_p);
    row_.min_p = static_cast<float>(rule.min_p);
    row_.repetition_penalty = static_cast<float>(rule.repetition_penalty);
    row_.presence_penalty = static_cast<float>(rule.presence_penalty);
    row_.frequency_penalty = static_cast<float>(rule.frequency_penalty);
    row_.logit_bias = bias_;
    row_.token_counts = counts_;
    row_.banned_ids = banned_;
  }
  SamplingRow At(uint64_t seed, uint32_t position) const {
    SamplingRow row = row_;
    row.seed = seed;
    row.position = position;
    return row;
  }

 private:
  SamplingRow row_;
  std::vector<LogitBias> bias_;
  std::vector<TokenCount> counts_;
  std::vector<int32_t> banned_;
};

// Draws `draws` tokens at successive positions and compares their counts with the exact
// distribution. Tokens that are expected less than five times share one bin.
void ExpectDrawsFollow(const std::vector<float>& logits, const SamplingRule& rule, int draws,
                       uint64_t seed) {
  const RowOfRule row(rule);
  const std::vector<double> exact = SamplingDistribution(logits, rule);
  std::vector<double> counts(logits.size());
  std::vector<SamplingRow> rows;
  for (int i = 0; i < draws; ++i) rows.push_back(row.At(seed, i));
  const std::vector<std::vector<float>> batch(draws, logits);
  for (const SampleResult& result : RunSample(batch, rows, rule.token_limit)) {
    ASSERT_EQ(result.status, SampleStatus::kOk);
    ASSERT_GT(exact[result.token], 0.0) << "token " << result.token << " must not be drawn";
    ++counts[result.token];
  }
  double chi_square = 0.0;
  double rare_expected = 0.0;
  double rare_count = 0.0;
  int bins = 0;
  for (size_t token = 0; token < exact.size(); ++token) {
    const double expected = exact[token] * draws;
    if (expected < 5.0) {
      rare_expected += expected;
      rare_count += counts[token];
      continue;
    }
    chi_square += (counts[token] - expected) * (counts[token] - expected) / expected;
    ++bins;
  }
  if (rare_expected >= 5.0) {
    chi_square += (rare_count - rare_expected) * (rare_count - rare_expected) / rare_expected;
    ++bins;
  }
  // Four and a half standard deviations above the mean.
  EXPECT_LE(chi_square, bins + 4.5 * std::sqrt(2.0 * bins)) << "bins " << bins;
}

class SamplingDistributionTest : public testing::Test {
 protected:
  void Expect(const std::string& what, const SamplingRule& rule) {
    SCOPED_TRACE(what);
    ExpectDrawsFollow(logits_, rule, /*draws=*/10000, /*seed=*/0x123456789abcdefULL);
  }

  std::mt19937 rng_{7};
  std::vector<float> logits_ = RandomLogits(50, 1.5f, rng_);
  SamplingRule rule_{.token_limit = 50};
};

TEST_F(SamplingDistributionTest, Plain) { Expect("plain", rule_); }

TEST_F(SamplingDistributionTest, Temperature) {
  rule_.temperature = 0.5;
  Expect("0.5", rule_);
  rule_.temperature = 3.0;
  Expect("3", rule_);
}

TEST_F(SamplingDistributionTest, TopK) {
  for (int top_k : {1, 2, 10, 49, 50, 1000}) {
    rule_.top_k = top_k;
    Expect("top_k " + std::to_string(top_k), rule_);
  }
}

TEST_F(SamplingDistributionTest, TopP) {
  for (double top_p : {0.01, 0.3, 0.9, 0.999}) {
    rule_.top_p = top_p;
    Expect("top_p " + std::to_string(top_p), rule_);
  }
}

TEST_F(SamplingDistributionTest, MinP) {
  for (double min_p : {0.01, 0.2, 1.0}) {
    rule_.min_p = min_p;
    Expect("min_p " + std::to_string(min_p), rule_);
  }
}

TEST_F(SamplingDistributionTest, AllFiltersTogether) {
  rule_.temperature = 1.3;
  rule_.top_k = 20;
  rule_.top_p = 0.85;
  rule_.min_p = 0.03;
  Expect("all", rule_);
}

TEST_F(SamplingDistributionTest, PenaltiesBiasAndBans) {
  rule_.repetition_penalty = 1.4;
  rule_.presence_penalty = 0.3;
  rule_.frequency_penalty = -0.2;
  rule_.bias = {{3, 2.0}, {4, -1.0}};
  rule_.prompt_tokens = {1, 3, 5, 7};
  rule_.output_counts = {{5, 2}, {9, 1}, {11, 4}};
  rule_.banned = {0, 20};
  rule_.token_limit = 45;
  Expect("penalties", rule_);
  rule_.top_p = 0.8;
  Expect("penalties and top_p", rule_);
}

TEST_F(SamplingDistributionTest, ManyEqualLogits) {
  logits_.assign(50, 1.0f);
  rule_.top_k = 7;  // the seven lowest ids
  Expect("ties", rule_);
}

// A flat distribution over a large vocabulary: the nucleus is found only after looking wider,
// and blocks of the unfiltered draw are many.
TEST(SamplingLargeVocabularyTest, NeverLeavesTheSupport) {
  std::mt19937 rng(8);
  const std::vector<float> logits = RandomLogits(20011, 0.5f, rng);
  for (const SamplingRule& rule :
       {SamplingRule{.top_p = 0.7, .token_limit = 20011},
        SamplingRule{.top_k = 3000, .token_limit = 20000},
        SamplingRule{.top_k = 3000, .top_p = 0.5, .token_limit = 20000},
        SamplingRule{.min_p = 0.3, .token_limit = 20000}, SamplingRule{.token_limit = 15000}}) {
    ExpectDrawsFollow(logits, rule, /*draws=*/100, /*seed=*/5);
  }
}

// In ascending order every token displaces an earlier candidate: the selection must still end
// with exactly the top ones.
TEST(SamplingLargeVocabularyTest, SelectsExactlyTheTopOfAscendingLogits) {
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 1e-4f * static_cast<float>(i);
  for (int top_k : {1, 50, 300}) {
    ExpectDrawsFollow(logits, {.top_k = top_k, .token_limit = 990}, /*draws=*/1000, /*seed=*/6);
  }
}

TEST(SamplingLargeVocabularyTest, DrawInvertsTheCumulativeDistribution) {
  std::mt19937 rng(9);
  const std::vector<float> logits = RandomLogits(5000, 1.0f, rng);
  const SamplingRule rule{.token_limit = 5000};
  std::vector<double> cumulative = SamplingDistribution(logits, rule);
  for (size_t i = 1; i < cumulative.size(); ++i) cumulative[i] += cumulative[i - 1];
  std::vector<double> histogram(10);
  for (uint32_t position = 0; position < 1000; ++position) {
    const int32_t token =
        RunSample({logits}, {RowOfRule(rule).At(3, position)}, 5000, 1).front().token;
    ++histogram[std::min(9, static_cast<int>(cumulative[token] * 10))];
  }
  for (double count : histogram) EXPECT_NEAR(count, 100.0, 45.0);
}

}  // namespace
}  // namespace parallax::kernels
