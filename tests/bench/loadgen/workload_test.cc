#include "bench/server/loadgen/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "bench/server/loadgen/arrival_process.h"

namespace parallax::loadgen {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kVocab = 6144;
constexpr int32_t kContext = 4096;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

std::vector<double> Gaps(const ArrivalOptions& options, int count, uint64_t seed) {
  ArrivalProcess process(options, seed);
  std::vector<double> gaps;
  int64_t last = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t next = process.NextNs();
    EXPECT_GE(next, last);
    gaps.push_back(static_cast<double>(next - last) / 1e9);
    last = next;
  }
  return gaps;
}

double Mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double Variance(const std::vector<double>& values) {
  const double mean = Mean(values);
  double sum = 0.0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return sum / static_cast<double>(values.size());
}

// Kolmogorov-Smirnov distance to the exponential distribution.
double DistanceToExponential(std::vector<double> gaps, double rate) {
  std::sort(gaps.begin(), gaps.end());
  double distance = 0.0;
  for (size_t i = 0; i < gaps.size(); ++i) {
    const double cdf = 1.0 - std::exp(-rate * gaps[i]);
    distance = std::max({distance, std::abs(cdf - static_cast<double>(i) / gaps.size()),
                         std::abs(cdf - static_cast<double>(i + 1) / gaps.size())});
  }
  return distance;
}

TEST(ArrivalProcess, ConstantIsEvenlySpaced) {
  for (const double gap : Gaps({.kind = ArrivalKind::kConstant, .rate = 50.0}, 100, 1)) {
    EXPECT_NEAR(gap, 0.02, 1e-8);
  }
}

TEST(ArrivalProcess, PoissonGapsAreExponential) {
  const int count = 20000;
  const std::vector<double> gaps = Gaps({.kind = ArrivalKind::kPoisson, .rate = 40.0}, count, 2);
  // 1.63 / sqrt(n) is the 1 % critical value; the seed is fixed, so this is no coin toss.
  EXPECT_LT(DistanceToExponential(gaps, 40.0), 1.63 / std::sqrt(count));
}

TEST(ArrivalProcess, GammaHasTheMeanAndTheBurstinessAskedFor) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const std::vector<double> gaps =
        Gaps({.kind = ArrivalKind::kGamma, .rate = 20.0, .burstiness = burstiness}, 40000, 3);
    EXPECT_NEAR(Mean(gaps), 0.05, 0.05 * 0.05);
    EXPECT_NEAR(Variance(gaps), 0.05 * 0.05 / burstiness, 0.1 * 0.05 * 0.05 / burstiness);
  }
}

TEST(ArrivalProcess, OneSeedGivesTheSameArrivalsAtEveryRate) {
  for (const ArrivalKind kind : {ArrivalKind::kPoisson, ArrivalKind::kGamma}) {
    const ArrivalOptions options = {.kind = kind, .rate = 10.0, .burstiness = 0.5};
    ArrivalOptions faster = options;
    faster.rate = 40.0;
    const std::vector<double> slow_gaps = Gaps(options, 100, 6);
    const std::vector<double> fast_gaps = Gaps(faster, 100, 6);
    for (size_t i = 0; i < slow_gaps.size(); ++i) {
      EXPECT_NEAR(slow_gaps[i], 4.0 * fast_gaps[i], 1e-7);
    }
  }
}

TEST(ArrivalProcess, RampSendsWhatTheRateIntegratesTo) {
  // From 10/s to 30/s over 20 s: 400 requests, then 30 a second.
  ArrivalProcess process(
      {.kind = ArrivalKind::kRamp, .rate = 10.0, .rate_end = 30.0, .ramp_seconds = 20.0}, 4);
  int in_ramp = 0;
  int after = 0;
  for (int64_t t = process.NextNs(); t < 30'000'000'000; t = process.NextNs()) {
    ++(t <= 20'000'000'000 ? in_ramp : after);
  }
  EXPECT_NEAR(in_ramp, 400, 2);
  EXPECT_NEAR(after, 300, 2);
}

TEST(ArrivalProcess, RampDownwards) {
  ArrivalProcess process(
      {.kind = ArrivalKind::kRamp, .rate = 30.0, .rate_end = 1.0, .ramp_seconds = 10.0}, 4);
  int in_ramp = 0;
  for (int64_t t = process.NextNs(); t <= 10'000'000'000; t = process.NextNs()) ++in_ramp;
  EXPECT_NEAR(in_ramp, 155, 3);
}

TEST(ArrivalProcess, RefusesByName) {
  EXPECT_THAT(MessageOf(ValidateArrivalOptions({.rate = 0.0})), HasSubstr("rate"));
  EXPECT_THAT(MessageOf(ValidateArrivalOptions({.kind = ArrivalKind::kGamma, .burstiness = -1.0})),
              HasSubstr("burstiness"));
}

TEST(LengthDistribution, UniformCoversItsRangeEvenly) {
  const auto length = LengthDistribution::Parse("uniform:10:19");
  ASSERT_TRUE(length.ok());
  std::mt19937_64 random(5);
  std::map<int32_t, int> counts;
  for (int i = 0; i < 20000; ++i) ++counts[length->Sample(random)];
  ASSERT_EQ(counts.size(), 10u);
  double chi_square = 0.0;
  for (const auto& [value, count] : counts) {
    EXPECT_GE(value, 10);
    EXPECT_LE(value, 19);
    chi_square += (count - 2000.0) * (count - 2000.0) / 2000.0;
  }
  EXPECT_LT(chi_square, 21.67);  // 9 degrees of freedom, 1 %
}

TEST(LengthDistribution, LogNormalHasItsMedianAndItsBounds) {
  const auto length = LengthDistribution::Parse("lognormal:200:0.7:50:1000");
  ASSERT_TRUE(length.ok());
  std::mt19937_64 random(6);
  std::vector<int32_t> samples;
  for (int i = 0; i < 20001; ++i) samples.push_back(length->Sample(random));
  std::sort(samples.begin(), samples.end());
  EXPECT_GE(samples.front(), 50);
  EXPECT_LE(samples.back(), 1000);
  EXPECT_NEAR(samples[samples.size() / 2], 200, 6);
}

TEST(LengthDistribution, RefusesBadSpecifications) {
  for (const char* spec : {"", "0", "-3", "uniform:5", "uniform:9:3", "lognormal:0:1:1:5",
                           "lognormal:10:x:1:5", "normal:3:4", "99999999999"}) {
    const auto length = LengthDistribution::Parse(spec);
    EXPECT_EQ(length.status().code(), absl::StatusCode::kInvalidArgument) << spec;
    EXPECT_THAT(MessageOf(length.status()), HasSubstr(spec));
  }
}

TEST(Workload, TheSameSeedGivesTheSameRequests) {
  const WorkloadOptions options = {.prompt_tokens = "uniform:5:50",
                                   .output_tokens = "uniform:1:20",
                                   .cancel_share = 0.3,
                                   .seed = 9};
  auto a = Workload::Create(options, kVocab, kContext);
  auto b = Workload::Create(options, kVocab, kContext);
  ASSERT_TRUE(a.ok() && b.ok());
  int cancelled = 0;
  for (int i = 0; i < 1000; ++i) {
    const PlannedRequest x = a->Next();
    const PlannedRequest y = b->Next();
    EXPECT_EQ(x.prompt, y.prompt);
    EXPECT_EQ(x.output_tokens, y.output_tokens);
    EXPECT_EQ(x.cancel_after, y.cancel_after);
    if (x.cancel_after.has_value()) {
      ++cancelled;
      EXPECT_LT(*x.cancel_after, x.output_tokens);
    }
    for (const int32_t id : x.prompt) ASSERT_TRUE(id >= 0 && id < kVocab);
  }
  EXPECT_NEAR(cancelled, 300, 45);
}

TEST(Workload, SharesPrefixesAmongGroups) {
  auto workload = Workload::Create({.prompt_tokens = "100",
                                    .output_tokens = "1",
                                    .shared_prefix_share = 0.5,
                                    .shared_prefix_tokens = 64,
                                    .shared_prefix_groups = 4,
                                    .seed = 10},
                                   kVocab, kContext);
  ASSERT_TRUE(workload.ok());
  std::map<std::vector<int32_t>, int> heads;
  for (int i = 0; i < 1000; ++i) {
    const PlannedRequest request = workload->Next();
    ASSERT_EQ(request.prompt.size(), 100u);
    ++heads[std::vector<int32_t>(request.prompt.begin(), request.prompt.begin() + 64)];
  }
  int shared = 0;
  int groups = 0;
  for (const auto& [head, count] : heads) {
    if (count < 2) continue;
    shared += count;
    ++groups;
  }
  EXPECT_EQ(groups, 4);
  EXPECT_NEAR(shared, 500, 60);
}

TEST(Workload, RefusesWhatTheModelCannotHold) {
  const auto workload =
      Workload::Create({.prompt_tokens = "4000", .output_tokens = "200"}, kVocab, kContext);
  EXPECT_EQ(workload.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(workload.status()), HasSubstr("4200"));
}

TEST(Trace, ReadsLengthsIdsAndTimes) {
  const auto trace = ParseTrace(
      "{\"timestamp\": 0.5, \"prompt_tokens\": 10, \"output_tokens\": 3}\n\n"
      "{\"timestamp\": 1.25, \"token_ids\": [5, 6], \"output_tokens\": 1}\n");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 2u);
  EXPECT_EQ((*trace)[0].prompt_tokens, 10);
  EXPECT_EQ((*trace)[1].token_ids, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ((*trace)[1].timestamp_seconds, 1.25);
}

TEST(Trace, RefusesByLineAndField) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "no lines"},
      {"[]", "line 1"},
      {"{\"prompt_tokens\": 0, \"output_tokens\": 3}", "prompt_tokens"},
      {"{\"prompt_tokens\": 3}", "output_tokens"},
      {"{\"token_ids\": [-1], \"output_tokens\": 3}", "token_ids"},
      {"{\"prompt_tokens\": 3, \"output_tokens\": 3}\n"
       "{\"timestamp\": 1, \"prompt_tokens\": 3, \"output_tokens\": 3}",
       "line 2"},
      {"{\"timestamp\": 2, \"prompt_tokens\": 3, \"output_tokens\": 3}\n"
       "{\"timestamp\": 1, \"prompt_tokens\": 3, \"output_tokens\": 3}",
       "earlier"},
  };
  for (const auto& [text, named] : cases) {
    const auto trace = ParseTrace(text);
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(MessageOf(trace.status()), HasSubstr(named));
  }
}

}  // namespace
}  // namespace parallax::loadgen
