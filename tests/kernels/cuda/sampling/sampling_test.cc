// Sampling on the GPU against the exact distribution and the CPU's definition of the draw.
#include "kernels/cuda/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/philox.h"
#include "tests/kernels/cuda/row_ops/device_array.h"
#include "tests/kernels/cuda/sampling/sampling_harness.h"

namespace parallax::kernels::cuda {
namespace {

using reference::SamplingRule;

// On Hopper both kernels run: the one of clusters for few rows, and the one for every other GPU.
class SamplingTest : public ::testing::TestWithParam<bool> {
 protected:
  SamplingTest() {
    if (!GetParam()) device_.compute_capability = 80;
  }
  SampledBatch Run(const std::vector<std::vector<float>>& logits,
                   const std::vector<SampledRow>& rows) {
    return SampleOnGpu(logits, rows, device_);
  }

  DeviceProperties device_ = ReadDeviceProperties(0);
  std::mt19937 rng_{23};
};

INSTANTIATE_TEST_SUITE_P(, SamplingTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Cluster" : "Block"; });

// The draw that kernels/sampling.h defines: u's place in the cumulative distribution, in order of
// likelihood if anything filters, of id otherwise.
class ExactDraw {
 public:
  ExactDraw(const std::vector<float>& logits, const SamplingRule& rule)
      : exact_(SamplingDistribution(logits, rule)), before_(logits.size()) {
    std::vector<int> order(exact_.size());
    std::iota(order.begin(), order.end(), 0);
    if (rule.top_k > 0 || rule.top_p < 1.0 || rule.min_p > 0.0) {
      const std::vector<double> transformed = TransformedLogits(logits, rule);
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return transformed[a] > transformed[b]; });
    }
    double sum = 0.0;
    for (int token : order) {
      before_[token] = sum;
      sum += exact_[token];
    }
  }

  // u lies within the token's part, give or take the rounding of masses.
  void Expect(const SampledRow& row, const SampleResult& result) const {
    ASSERT_EQ(result.status, SampleStatus::kOk);
    const double uniform = UniformDraw(row.seed, 0, row.position);
    constexpr double kRounding = 2e-5;
    EXPECT_GT(exact_[result.token], 0.0) << "token " << result.token;
    EXPECT_GE(uniform, before_[result.token] - kRounding) << "token " << result.token;
    EXPECT_LE(uniform, before_[result.token] + exact_[result.token] + kRounding)
        << "token " << result.token;
  }

 private:
  const std::vector<double> exact_;
  std::vector<double> before_;
};

// Every kind of parameter, alone and together.
std::vector<SamplingRule> Rules(int token_limit) {
  std::vector<SamplingRule> rules = {
      {},
      {.temperature = 0.4},
      {.temperature = 3.0},
      {.top_k = 1},
      {.top_k = 40},
      {.top_k = 3000},
      {.top_p = 0.02},
      {.top_p = 0.9},
      {.top_p = 0.999},
      {.temperature = 1.7, .top_p = 0.9},
      {.min_p = 0.05},
      {.min_p = 1.0},
      {.temperature = 1.3, .top_k = 50, .top_p = 0.85, .min_p = 0.02},
      {.top_p = 0.8,
       .repetition_penalty = 1.4,
       .presence_penalty = 0.3,
       .frequency_penalty = -0.2,
       .bias = {{3, 2.0}, {4, -1.0}},
       .prompt_tokens = {1, 3, 5, 7},
       .output_counts = {{5, 2}, {9, 1}, {11, 4}},
       .banned = {0, 20}},
  };
  for (SamplingRule& rule : rules) rule.token_limit = token_limit;
  return rules;
}

TEST_P(SamplingTest, DrawsAsTheCpuDoesForEveryParameterAndVocabulary) {
  constexpr size_t kSeeds = 8;
  for (int vocab : {33, 1000, 32003, 151936}) {
    const std::vector<float> logits = RandomLogits(vocab, 2.5f, rng_);
    std::vector<SampledRow> rows;
    const std::vector<SamplingRule> rules = Rules(vocab - vocab / 10);
    for (const SamplingRule& rule : rules) {
      for (uint64_t seed = 0; seed < kSeeds; ++seed) {
        rows.push_back({.rule = rule, .seed = seed, .position = 5, .allowed_mask = {}});
      }
    }
    const SampledBatch batch = Run({logits}, rows);
    for (size_t r = 0; r < rules.size(); ++r) {
      const ExactDraw exact(logits, rules[r]);
      for (size_t i = r * kSeeds; i < (r + 1) * kSeeds; ++i) {
        SCOPED_TRACE("vocabulary " + std::to_string(vocab) + ", row " + std::to_string(i));
        exact.Expect(rows[i], batch.results[i]);
        EXPECT_EQ(batch.slot_tokens[i], batch.results[i].token);
      }
    }
  }
}

// From thousands of elements in a bin to none in most, alone and behind one that takes much of the
// mass and misleads the sample that the first pass starts from.
TEST_P(SamplingTest, DrawsInOrderFromFlatAndSteepRows) {
  constexpr size_t kSeeds = 6;
  const std::vector<SamplingRule> rules = {{.top_p = 0.9, .token_limit = 151936},
                                           {.top_p = 0.3, .token_limit = 151936},
                                           {.top_k = 20000, .token_limit = 151936},
                                           {.min_p = 0.01, .token_limit = 151936}};
  for (const float deviation : {0.02f, 0.3f, 1.0f, 8.0f}) {
    for (const float above : {0.0f, 12.4f}) {
      std::vector<float> logits = RandomLogits(151936, deviation, rng_);
      logits[0] += above;
      std::vector<SampledRow> rows;
      for (size_t i = 0; i < rules.size() * kSeeds; ++i) {
        const int num_top_logprobs = static_cast<int>(i % 2) - 1;
        rows.push_back({.rule = rules[i / kSeeds],
                        .seed = i,
                        .num_top_logprobs = num_top_logprobs,
                        .allowed_mask = {}});
      }
      const SampledBatch batch = Run({logits}, rows);
      for (size_t r = 0; r < rules.size(); ++r) {
        const ExactDraw exact(logits, rules[r]);
        for (size_t i = r * kSeeds; i < (r + 1) * kSeeds; ++i) {
          SCOPED_TRACE("deviation " + std::to_string(deviation) + ", first above by " +
                       std::to_string(above) + ", row " + std::to_string(i));
          exact.Expect(rows[i], batch.results[i]);
        }
      }
    }
  }
}

TEST_P(SamplingTest, DrawsFollowTheExactDistribution) {
  const std::vector<float> logits = RandomLogits(50, 1.5f, rng_);
  constexpr int kDraws = 10000;
  for (const SamplingRule& rule : Rules(45)) {
    std::vector<SampledRow> rows;
    for (uint32_t i = 0; i < kDraws; ++i) {
      rows.push_back({.rule = rule, .seed = 99, .position = i, .allowed_mask = {}});
    }
    std::vector<double> counts(50);
    for (const SampleResult& result : Run({logits}, rows).results) {
      ASSERT_EQ(result.status, SampleStatus::kOk);
      ++counts[result.token];
    }
    const std::vector<double> exact = SamplingDistribution(logits, rule);
    double chi_square = 0.0;
    int bins = 0;
    for (size_t token = 0; token < exact.size(); ++token) {
      const double expected = exact[token] * kDraws;
      if (expected == 0.0) {
        EXPECT_EQ(counts[token], 0.0) << "token " << token;
      }
      if (expected < 5.0) continue;
      chi_square += (counts[token] - expected) * (counts[token] - expected) / expected;
      ++bins;
    }
    EXPECT_LE(chi_square, bins + 4.5 * std::sqrt(2.0 * bins)) << "bins " << bins;
  }
}

// Draws of one row of logits by each of the rules.
std::vector<SampledRow> RowsOf(const std::vector<SamplingRule>& rules, size_t vocabulary) {
  std::vector<SampledRow> rows;
  for (const SamplingRule& rule : rules) {
    rows.push_back({.rule = rule, .seed = 4, .position = 2, .allowed_mask = {}});
    rows.back().rule.token_limit = static_cast<int>(vocabulary);
  }
  return rows;
}

// Nearly equal and equal logits: more candidates than are ranked at once.
TEST_P(SamplingTest, SplitsCrowdsOfEqualLogits) {
  std::vector<float> steps(151936);
  for (size_t i = 0; i < steps.size(); ++i) steps[i] = 1e-6f * static_cast<float>(i % 1000);
  // So many that a row's bin overflows, but no bin of a block that shares the row.
  std::vector<float> many = RandomLogits(151936, 1.0f, rng_);
  for (size_t i = 0; i < many.size(); i += 7) many[i] = 2.5f;
  const std::vector<SampledRow> rows =
      RowsOf({SamplingRule{.top_p = 0.5}, SamplingRule{.top_k = 100000}, SamplingRule{.top_k = 7},
              SamplingRule{.temperature = 1e-3, .top_k = 5000, .top_p = 0.3}, SamplingRule{}},
             many.size());
  for (const std::vector<float>& logits : {std::vector<float>(151936, 1.0f), steps, many}) {
    const SampledBatch batch = Run({logits}, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE(i);
      ExactDraw(logits, rows[i].rule).Expect(rows[i], batch.results[i]);
    }
  }
}

// The same, small enough for racecheck, which takes one atomic on a shared bin after the other.
TEST_P(SamplingTest, EachKernelOnceOnACrowd) {
  const std::vector<float> logits(40000, 1.0f);
  // Whether one token more is kept must not be left to rounding.
  const std::vector<SampledRow> rows = RowsOf({SamplingRule{.top_p = 0.40001}}, logits.size());
  const SampledBatch batch = Run({logits}, rows);
  ExactDraw(logits, rows[0].rule).Expect(rows[0], batch.results[0]);
}

// In floats, rounded operation by operation as the CPU's.
int GreedyToken(const std::vector<float>& raw, const SampledRow& row) {
  std::vector<float> logits = raw;
  const SamplingRule& rule = row.rule;
  for (const auto& [token, bias] : rule.bias) logits[token] += static_cast<float>(bias);
  const float repetition = static_cast<float>(rule.repetition_penalty);
  const auto repeat = [&](int token) {
    logits[token] = logits[token] > 0 ? logits[token] / repetition : logits[token] * repetition;
  };
  for (int token : rule.prompt_tokens) {
    if (!rule.output_counts.contains(token)) repeat(token);
  }
  for (const auto& [token, count] : rule.output_counts) {
    repeat(token);
    volatile float penalty = static_cast<float>(rule.frequency_penalty) * count;
    logits[token] -= penalty;
    logits[token] -= static_cast<float>(rule.presence_penalty);
  }
  for (int token : rule.banned) logits[token] = -INFINITY;
  logits.resize(rule.token_limit);
  for (size_t i = 0; i < logits.size() && !row.allowed_mask.empty(); ++i) {
    if ((row.allowed_mask[i / 32] >> i % 32 & 1) == 0) logits[i] = -INFINITY;
  }
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST_P(SamplingTest, GreedyTokensAreExactlyTheLargestWithTheLowestId) {
  for (int vocab : {5, 300, 50257, 151936}) {
    std::vector<std::vector<float>> logits;
    std::vector<SampledRow> rows;
    for (int i = 0; i < 24; ++i) {
      logits.push_back(RandomLogits(vocab, 3.0f, rng_));
      // Few distinct values: ties everywhere.
      if (i % 2) {
        for (float& logit : logits.back()) logit = std::round(logit);
      }
      SampledRow row;
      row.rule.temperature = i % 3 ? 0.0 : 1e-6;
      row.rule.token_limit = vocab - 1;
      const auto any = [&] { return static_cast<int>(rng_() % (vocab - 1)); };
      const auto best = [&] { return GreedyToken(logits.back(), row); };
      if (i % 4 == 1) {
        // What was best is pushed down, again and again.
        row.rule.repetition_penalty = 1.3;
        row.rule.presence_penalty = 0.7;
        row.rule.frequency_penalty = 0.37;
        for (int k = 0; k < 3; ++k) row.rule.output_counts[best()] = k + 1;
        row.rule.prompt_tokens = {best(), any()};
      } else if (i % 4 == 2) {
        row.rule.bias = {{any(), 5.125}, {best(), -1.0}};
      } else if (i % 4 == 3) {
        row.rule.banned = {best()};
        row.allowed_mask.resize((vocab + 31) / 32);
        for (uint32_t& word : row.allowed_mask) word = static_cast<uint32_t>(rng_()) | 0x11;
      }
      rows.push_back(row);
    }
    const SampledBatch batch = Run(logits, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(batch.results[i].token, GreedyToken(logits[i], rows[i]))
          << "vocabulary " << vocab << ", row " << i;
    }
  }
}

TEST_P(SamplingTest, LogprobsAreThoseOfTheRawLogits) {
  const int vocab = 20011;
  std::vector<float> logits = RandomLogits(vocab, 2.0f, rng_);
  logits[77] = logits[76] = 20.0f;  // a tie goes to the lower id
  logits[vocab - 1] = 30.0f;        // beyond the limit: in the sum, but never listed
  std::vector<SampledRow> rows;
  for (int tops : {0, 1, 5, kMaxTopLogprobs}) {
    SampledRow row;
    row.rule = {.temperature = 0.8, .top_p = 0.9, .bias = {{5, 40.0}}, .token_limit = vocab - 1};
    row.num_top_logprobs = tops;
    rows.push_back(row);
  }
  const std::vector<double> exact = reference::LogSoftmax(logits);
  std::vector<int> order(vocab - 1);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return exact[a] > exact[b]; });
  const SampledBatch batch = Run({logits}, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleResult& result = batch.results[i];
    EXPECT_EQ(result.token, 5);
    EXPECT_NEAR(result.logprob, exact[5], 1e-4);
    ASSERT_EQ(result.top_count, rows[i].num_top_logprobs);
    for (int k = 0; k < result.top_count; ++k) {
      EXPECT_EQ(result.top[k].token, order[k]);
      EXPECT_NEAR(result.top[k].logprob, exact[order[k]], 1e-4);
    }
  }
}

TEST_P(SamplingTest, FailuresAreAStatusOfTheirRowOnly) {
  std::vector<std::vector<float>> logits(5, RandomLogits(3000, 1.0f, rng_));
  logits[0][2999] = NAN;
  logits[1][17] = INFINITY;
  logits[2].assign(3000, -INFINITY);
  std::vector<SampledRow> rows(5);
  for (SampledRow& row : rows) {
    row.rule.token_limit = 3000;
    row.num_top_logprobs = 2;
  }
  rows[3].allowed_mask.assign(3000 / 32 + 1, 0);
  const SampledBatch batch = Run(logits, rows);
  const SampleStatus expected[] = {SampleStatus::kNan, SampleStatus::kNan, SampleStatus::kNan,
                                   SampleStatus::kNoTokenLeft, SampleStatus::kOk};
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(batch.results[i].status, expected[i]) << i;
    EXPECT_EQ(batch.results[i].token >= 0, expected[i] == SampleStatus::kOk) << i;
    EXPECT_EQ(batch.results[i].top_count, expected[i] == SampleStatus::kOk ? 2 : 0) << i;
    EXPECT_EQ(batch.slot_tokens[i] == kUntouched, expected[i] != SampleStatus::kOk) << i;
  }
}

TEST_P(SamplingTest, CountsWhatItDraws) {
  std::vector<float> logits(100, 0.0f);
  logits[42] = 50.0f;
  std::vector<SampledRow> rows(3);
  for (SampledRow& row : rows) row.rule.token_limit = 100;
  rows[0].rule.prompt_tokens = {1, 2};
  rows[1].rule.output_counts = {{42, 3}, {7, 1}};
  rows[2].rule.prompt_tokens = {42};
  const SampledBatch batch = Run({logits}, rows);
  const auto count = [&](int row, int token) {
    for (const TokenCount& entry : batch.token_counts[row]) {
      if (entry.token == token) return entry.output_count;
    }
    return -1;
  };
  EXPECT_EQ(count(0, 42), 1);
  EXPECT_EQ(batch.token_counts[0].size(), 3u);
  EXPECT_EQ(count(1, 42), 4);
  EXPECT_EQ(count(1, 7), 1);
  EXPECT_EQ(count(2, 42), 1);
}

// The kernel guesses the maximum from some of the logits.
TEST_P(SamplingTest, FindsAMaximumFarAboveTheOthers) {
  for (const float height : {20.0f, 60.0f, 3000.0f}) {
    std::vector<float> logits = RandomLogits(151936, 1.0f, rng_);
    for (int i = 0; i < 5; ++i) logits[70001 + 11 * i] = height - 0.75f * i;
    std::vector<SampledRow> rows;
    for (const SamplingRule& rule :
         {SamplingRule{}, SamplingRule{.temperature = 0.2}, SamplingRule{.top_p = 0.9},
          SamplingRule{.temperature = 0.2, .top_k = 4}, SamplingRule{.min_p = 0.3}}) {
      for (uint64_t seed = 0; seed < 4; ++seed) {
        rows.push_back({.rule = rule, .seed = seed, .num_top_logprobs = 2, .allowed_mask = {}});
        rows.back().rule.token_limit = 151936;
      }
    }
    const std::vector<double> exact = reference::LogSoftmax(logits);
    const SampledBatch batch = Run({logits}, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE("height " + std::to_string(height) + ", row " + std::to_string(i));
      const SampleResult& result = batch.results[i];
      ExactDraw(logits, rows[i].rule).Expect(rows[i], result);
      EXPECT_NEAR(result.logprob, exact[result.token], 1e-4);
      EXPECT_EQ(result.top[0].token, 70001);
      EXPECT_NEAR(result.top[0].logprob, exact[70001], 1e-4);
    }
  }
}

TEST_P(SamplingTest, DrawsAmongTheFewThatBansLeave) {
  const std::vector<float> logits = RandomLogits(151936, 1.0f, rng_);
  std::vector<SampledRow> rows;
  for (const SamplingRule& rule : {SamplingRule{}, SamplingRule{.top_p = 0.6}}) {
    rows.push_back({.rule = rule, .num_top_logprobs = -1, .allowed_mask = {}});
    rows.back().rule.token_limit = 151936;
    for (int i = 0; i < 151936; ++i) {
      if (i % 50001 != 7) rows.back().rule.banned.insert(i);
    }
  }
  const SampledBatch batch = Run({logits}, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    ExactDraw(logits, rows[i].rule).Expect(rows[i], batch.results[i]);
  }
}

// The number of rows decides how many blocks share one.
TEST_P(SamplingTest, ARowIsBitForBitTheSameWhateverIsBesideIt) {
  constexpr size_t kKinds = 12;
  const std::vector<float> logits = RandomLogits(151936, 1.0f, rng_);
  std::vector<SampledRow> rows;
  for (uint32_t i = 0; i < 300; ++i) {
    const uint32_t kind = i % kKinds;
    SampledRow row;
    row.rule = {.temperature = 1.0 + 0.01 * kind, .token_limit = 151936 - 200};
    if (kind % 2) row.rule.top_p = 0.95;
    if (kind % 3) row.rule.bias = {{17, 1.0}};
    row.position = kind;
    row.num_top_logprobs = 2;
    rows.push_back(row);
  }
  const std::vector<SampleResult> expected = Run({logits}, rows).results;
  for (size_t count : {300, 60, 14, 8}) {
    rows.resize(count);
    const std::vector<SampleResult> results = Run({logits}, rows).results;
    for (size_t i = 0; i < count; ++i) {
      SCOPED_TRACE("row " + std::to_string(i) + " of " + std::to_string(count));
      EXPECT_EQ(results[i].token, expected[i % kKinds].token);
      EXPECT_EQ(results[i].logprob, expected[i % kKinds].logprob);
      EXPECT_EQ(results[i].top[1], expected[i % kKinds].top[1]);
    }
  }
}

TEST(SamplingChecksTest, RefusesByName) {
  const DeviceProperties device = ReadDeviceProperties(0);
  const DeviceArray<float> logits(400);
  const DeviceArray<DeviceSamplingRow> rows(2);
  const DeviceArray<SampleResult> results(2);
  const auto refused = [&](auto change, const char* name) {
    SampleParams params;
    params.logits =
        ConstTensorView(logits.data(), DType::kFloat32, {2, 200}, {DeviceType::kCuda, 0});
    params.rows = rows.span();
    params.token_limit = 200;
    params.results = {results.data(), 2};
    change(params);
    try {
      Sample(params, device, Stream(0, nullptr));
      ADD_FAILURE() << name << " was not refused";
    } catch (const KernelError& error) {
      EXPECT_NE(std::strstr(error.what(), name), nullptr) << error.what();
    }
  };
  refused([](SampleParams& p) { p.logits.dtype = DType::kBFloat16; }, "logits");
  refused([](SampleParams& p) { p.logits.strides[0] = 198; }, "logits");
  refused([](SampleParams& p) { p.token_limit = 0; }, "token_limit");
  refused([](SampleParams& p) { p.results = p.results.first(1); }, "results");
}

}  // namespace
}  // namespace parallax::kernels::cuda
