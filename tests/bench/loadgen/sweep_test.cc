#include "bench/server/loadgen/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "bench/server/loadgen/result_format.h"

namespace parallax::loadgen {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SweepTest : public ::testing::Test {
 protected:
  void SetUp() override { std::remove(path_.c_str()); }
  void TearDown() override { std::remove(path_.c_str()); }

  // A server that meets its SLO below `capacity_`.
  RunPoint FakeRun() {
    return [this](const ExperimentOptions& options) -> absl::StatusOr<nlohmann::json> {
      seeds_.insert(options.workload.seed);
      arrival_seeds_.insert(options.run.arrival_seed);
      durations_[options.workload.prompt_tokens].insert(options.run.duration_seconds);
      if (++runs_ == fail_at_) return absl::UnavailableError("unplugged");
      const double rate = options.run.arrivals ? options.run.arrivals->rate : 0.0;
      return nlohmann::json{{"window_seconds", 5.0},
                            {"requests", {{"completed", runs_ == nothing_completes_at_ ? 0 : 7}}},
                            {"goodput", {{"share", rate <= capacity_ ? 1.0 : 0.5}}}};
    };
  }

  ExperimentOptions SearchBase() {
    ExperimentOptions options;
    options.run.arrivals = ArrivalOptions{};
    options.run.arrival_seed = 5;
    options.run.slo.ttft_ms = 100.0;
    return options;
  }

  SweepFile Open(const std::string& kind, const nlohmann::json& fixed = {{"seed", 1}}) {
    absl::StatusOr<SweepFile> file = SweepFile::Open(path_, kind, fixed);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }

  const std::string path_ =
      ::testing::TempDir() + "/sweep_test_" + std::to_string(getpid()) + ".json";
  int runs_ = 0;
  std::set<uint64_t> seeds_;
  std::set<uint64_t> arrival_seeds_;
  std::map<std::string, std::set<double>> durations_;  // by prompt length
  int fail_at_ = 0;
  int nothing_completes_at_ = 0;
  double capacity_ = 37.0;
};

TEST_F(SweepTest, GridVisitsEveryPointOnceAndResumesAfterAFailure) {
  const GridOptions grid = {{1, 4}, {"128", "512"}, {"16", "32"}};
  fail_at_ = 6;
  SweepFile file = Open("grid");
  EXPECT_EQ(RunGrid({}, grid, FakeRun(), &file).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(file.document()["runs"].size(), 5u);

  fail_at_ = 0;
  runs_ = 0;
  SweepFile again = Open("grid");
  EXPECT_TRUE(RunGrid({}, grid, FakeRun(), &again).ok());
  EXPECT_EQ(seeds_.size(), 8u) << "prompts of their own, the same after a resumption";
  EXPECT_EQ(runs_, 3);
  EXPECT_EQ(again.document()["runs"].size(), 8u);
}

TEST_F(SweepTest, GridGivesLongPromptsLongerWindows) {
  ExperimentOptions base;
  base.run.duration_seconds = 5.0;
  SweepFile file = Open("grid");
  GridOptions grid = {{1, 4}, {"128", "512"}, {"16"}, {20.0, 60.0}};
  EXPECT_TRUE(RunGrid(base, grid, FakeRun(), &file).ok());
  EXPECT_EQ(durations_["128"], (std::set<double>{20.0}));
  EXPECT_EQ(durations_["512"], (std::set<double>{60.0}));
  grid.durations.pop_back();
  EXPECT_EQ(RunGrid(base, grid, FakeRun(), &file).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SweepTest, GridStopsWhereNothingCompletes) {
  nothing_completes_at_ = 2;
  SweepFile file = Open("grid");
  const absl::Status status = RunGrid({}, {{1, 4, 8}, {"128"}, {"16"}}, FakeRun(), &file);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("5.0 s"));
  EXPECT_EQ(file.document()["runs"].size(), 1u);
}

TEST_F(SweepTest, SearchFindsTheHighestGoodRate) {
  SweepFile file = Open("search");
  const auto rate = SearchRate(SearchBase(), {.resolution = 0.02}, FakeRun(), &file);
  ASSERT_TRUE(rate.ok()) << rate.status();
  EXPECT_LE(*rate, capacity_);
  EXPECT_GE(*rate, capacity_ / 1.02);
  EXPECT_LT(runs_, 20);
  EXPECT_EQ(seeds_.size(), runs_) << "prompts of their own";
  EXPECT_THAT(arrival_seeds_, ElementsAre(5)) << "the same arrivals at every rate";

  runs_ = 0;
  SweepFile again = Open("search");
  EXPECT_EQ(*SearchRate(SearchBase(), {.resolution = 0.02}, FakeRun(), &again), *rate);
  EXPECT_EQ(runs_, 0) << "every point is in the file";
}

TEST_F(SweepTest, SearchStaysWithinItsRange) {
  SweepFile file = Open("search");
  capacity_ = 1e9;
  EXPECT_EQ(*SearchRate(SearchBase(), {.max_rate = 50.0}, FakeRun(), &file), 50.0);
  capacity_ = 0.0;
  std::remove(path_.c_str());
  SweepFile other = Open("search");
  EXPECT_EQ(*SearchRate(SearchBase(), {.min_rate = 5.0}, FakeRun(), &other), 0.0);
}

TEST_F(SweepTest, RefusesAFileMadeWithOtherOptions) {
  SweepFile file = Open("grid");
  ASSERT_TRUE(file.Add({{"x", 1}}, {}).ok());
  const auto other = SweepFile::Open(path_, "grid", {{"seed", 2}});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("seed"));
  EXPECT_FALSE(SweepFile::Open(path_, "search", {{"seed", 1}}).ok());
}

TEST_F(SweepTest, RefusesAFileThatIsNotOne) {
  for (const char* text : {"hello", "{\"runs\": []}", "[1]"}) {
    std::ofstream(path_) << text;
    EXPECT_EQ(SweepFile::Open(path_, "grid", {}).status().code(), absl::StatusCode::kAlreadyExists)
        << text;
  }
}

TEST_F(SweepTest, KnowsItsOwnFiles) {
  SweepFile file = Open("grid");
  EXPECT_TRUE(IsSweep(file.document()));
  ASSERT_TRUE(file.Add({{"x", 1}}, {}).ok());
  EXPECT_TRUE(IsSweep(file.document()));
  for (const char* part : {"schema_version", "sweep", "fixed_options", "runs"}) {
    nlohmann::json other = file.document();
    other.erase(part);
    EXPECT_FALSE(IsSweep(other)) << part;
  }
  nlohmann::json newer = file.document();
  newer["schema_version"] = 2;
  EXPECT_FALSE(IsSweep(newer));
}

TEST_F(SweepTest, ResultsSaySoThemselves) {
  const nlohmann::json object = nlohmann::json::object();
  const nlohmann::json result = {
      {"schema_version", 1}, {"requests", object},   {"tokens", object}, {"throughput", object},
      {"goodput", nullptr},  {"latency_ms", object}, {"lag_ms", object}};
  EXPECT_TRUE(IsResult(result));
  for (const auto& [part, value] : result.items()) {
    nlohmann::json other = result;
    other.erase(part);
    EXPECT_FALSE(IsResult(other)) << part;
  }
  EXPECT_FALSE(IsResult(nlohmann::json::array()));
}

}  // namespace
}  // namespace parallax::loadgen
