#include "bench/server/loadgen/both_sides.h"

#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace parallax::loadgen {
namespace {

constexpr double kMillisecondsPerSecond = 1e3;

// The counter over all its labels, or over the series that have `label`.
double Sum(const MetricSamples& delta, std::string_view counter, std::string_view label = "") {
  double sum = 0.0;
  for (const auto& [sample, value] : delta) {
    const size_t end = std::min(sample.find('{'), sample.size());
    if (std::string_view(sample).substr(0, end) != counter) continue;
    if (absl::StrContains(sample, absl::string_view(label.data(), label.size()))) sum += value;
  }
  return sum;
}

double Mean(double sum, double count) { return count > 0.0 ? sum / count : 0.0; }

nlohmann::json Counts(int64_t client, double server) {
  return {{"client", client}, {"server", std::llround(server)}};
}

std::string Difference(double client, double server, int digits) {
  const double more = server - client;
  if (more == 0.0) return "equal";
  return absl::StrFormat("%s has %.*f more", more > 0.0 ? "server" : "client", digits,
                         std::abs(more));
}

}  // namespace

nlohmann::json BothSidesJson(const Tally& tally, const MetricSamples& server_delta) {
  const double server_ttft = Mean(Sum(server_delta, "parallax:time_to_first_token_seconds_sum"),
                                  Sum(server_delta, "parallax:time_to_first_token_seconds_count"));
  const double client_ttft_ns =
      Mean(tally.all_ttft_ns, static_cast<double>(tally.all_first_tokens));
  return {{"requests", Counts(tally.all_requests, Sum(server_delta, "parallax:grpc_requests_total",
                                                      "method=\"GenerateStream\""))},
          {"prompt_tokens",
           Counts(tally.all_prompt_tokens, Sum(server_delta, "parallax:prompt_tokens_total"))},
          {"output_tokens",
           Counts(tally.all_output_tokens, Sum(server_delta, "parallax:generation_tokens_total"))},
          {"mean_ttft_ms",
           {{"client", client_ttft_ns / 1e6}, {"server", kMillisecondsPerSecond * server_ttft}}}};
}

std::string BothSidesTable(const nlohmann::json& both_sides) {
  static constexpr std::pair<const char*, const char*> kRows[] = {
      {"requests", "requests"},
      {"prompt_tokens", "prompt tokens"},
      {"output_tokens", "output tokens"},
      {"mean_ttft_ms", "mean TTFT, ms"}};
  std::string table = absl::StrFormat("both sides       %12s %12s\n", "client", "server");
  for (const auto& [key, title] : kRows) {
    const double client = both_sides[key]["client"].get<double>();
    const double server = both_sides[key]["server"].get<double>();
    const int digits = absl::StrContains(key, "_ms") ? 3 : 0;
    absl::StrAppendFormat(&table, "  %-14s %12.*f %12.*f  %s\n", title, digits, client, digits,
                          server, Difference(client, server, digits));
  }
  return table;
}

}  // namespace parallax::loadgen
