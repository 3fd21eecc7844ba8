#include "bench/server/loadgen/both_sides.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace parallax::loadgen {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Tally FiveRequests() {
  Tally tally;
  tally.all_requests = 5;
  tally.all_prompt_tokens = 40;
  tally.all_output_tokens = 100;
  tally.all_first_tokens = 4;
  tally.all_ttft_ns = 4 * 1.5e6;
  return tally;
}

MetricSamples SameOnTheServer() {
  return {
      {"parallax:grpc_requests_total{model_name=\"m\",method=\"GenerateStream\",code=\"OK\"}", 4},
      {"parallax:grpc_requests_total{model_name=\"m\",method=\"GenerateStream\",code=\"ABORTED\"}",
       1},
      {"parallax:grpc_requests_total{model_name=\"m\",method=\"GetModelInfo\",code=\"OK\"}", 9},
      {"parallax:prompt_tokens_total{model_name=\"m\"}", 40},
      {"parallax:generation_tokens_total{model_name=\"m\"}", 100},
      {"parallax:time_to_first_token_seconds_sum{model_name=\"m\"}", 0.006},
      {"parallax:time_to_first_token_seconds_count{model_name=\"m\"}", 4}};
}

TEST(BothSides, EqualCountsAreSaidToBe) {
  const nlohmann::json both = BothSidesJson(FiveRequests(), SameOnTheServer());
  for (const char* quantity : {"requests", "prompt_tokens", "output_tokens", "mean_ttft_ms"}) {
    EXPECT_EQ(both[quantity]["client"], both[quantity]["server"]) << quantity;
  }
  EXPECT_EQ(both["requests"]["server"], 5);
  EXPECT_DOUBLE_EQ(both["mean_ttft_ms"]["client"], 1.5);
  EXPECT_THAT(BothSidesTable(both), Not(HasSubstr("more")));
}

TEST(BothSides, ADifferenceIsShownWithItsSide) {
  MetricSamples delta = SameOnTheServer();
  delta["parallax:generation_tokens_total{model_name=\"m\"}"] = 112;
  delta["parallax:prompt_tokens_total{model_name=\"m\"}"] = 39;
  delta["parallax:time_to_first_token_seconds_sum{model_name=\"m\"}"] = 0.005;
  const std::string table = BothSidesTable(BothSidesJson(FiveRequests(), delta));
  EXPECT_THAT(table, HasSubstr("100          112  server has 12 more"));
  EXPECT_THAT(table, HasSubstr("40           39  client has 1 more"));
  EXPECT_THAT(table, HasSubstr("1.500        1.250  client has 0.250 more"));
}

TEST(BothSides, ACounterThatDidNotMoveIsZero) {
  const nlohmann::json both = BothSidesJson(Tally(), {{"parallax:other_total", 3}});
  EXPECT_EQ(both["requests"]["server"], 0);
  EXPECT_EQ(both["mean_ttft_ms"]["server"], 0);
}

}  // namespace
}  // namespace parallax::loadgen
