#include "bench/server/loadgen/result_format.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "bench/server/loadgen/both_sides.h"

namespace parallax::loadgen {
namespace {

constexpr int kSchemaVersion = 1;
constexpr std::pair<const char*, double> kQuantiles[] = {
    {"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p99.9", 0.999}};
constexpr const char* kLatencies[] = {"ttft", "transport", "tpot", "itl", "e2e"};

double Milliseconds(double ns) { return ns / 1e6; }

// gRPC's codes are Abseil's.
std::string CodeName(int code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

nlohmann::json LatencyJson(const Histogram& histogram) {
  nlohmann::json json = {{"count", histogram.count()},
                         {"mean", Milliseconds(histogram.mean_ns())},
                         {"max", Milliseconds(static_cast<double>(histogram.max_ns()))}};
  for (const auto& [name, quantile] : kQuantiles) {
    json[name] = Milliseconds(static_cast<double>(histogram.ValueAtQuantile(quantile)));
  }
  return json;
}

nlohmann::json TimelineJson(const std::vector<TimelineSecond>& timeline) {
  nlohmann::json json = nlohmann::json::array();
  for (const TimelineSecond& second : timeline) {
    json.push_back({second.started, second.completed, second.tokens});
  }
  return json;
}

nlohmann::json RequestsJson(const Tally& tally) {
  nlohmann::json by_code = nlohmann::json::object();
  for (const auto& [code, count] : tally.by_code) by_code[CodeName(code)] = count;
  nlohmann::json messages = nlohmann::json::object();
  for (const auto& [code, text] : tally.first_message) messages[CodeName(code)] = text;
  return {{"completed", tally.completed},   {"cancelled", tally.cancelled},
          {"refused", tally.refused},       {"failed", tally.failed},
          {"unfinished", tally.unfinished}, {"by_code", by_code},
          {"first_message", messages}};
}

nlohmann::json GoodputJson(const RunOptions& options, const RunResult& result) {
  if (!options.slo.any()) return nullptr;
  const int64_t asked =
      result.tally.completed + result.tally.refused + result.tally.failed + result.tally.unfinished;
  return {{"slo_ttft_ms", options.slo.ttft_ms},
          {"slo_tpot_ms", options.slo.tpot_ms},
          {"slo_e2e_ms", options.slo.e2e_ms},
          {"good_requests", result.tally.good},
          {"share", asked == 0 ? 0.0 : static_cast<double>(result.tally.good) / asked},
          {"requests_per_second", result.tally.good / result.window_seconds}};
}

nlohmann::json ThroughputJson(const RunResult& result) {
  const Tally& tally = result.tally;
  const double seconds = result.window_seconds;
  return {
      {"requests_per_second", tally.window_completed / seconds},
      {"output_tokens_per_second", tally.window_tokens / seconds},
      {"total_tokens_per_second", (tally.window_tokens + tally.window_prompt_tokens) / seconds}};
}

nlohmann::json HistogramsJson(const Tally& tally) {
  return {{"ttft", tally.ttft.Ranges()},
          {"transport", tally.transport.Ranges()},
          {"tpot", tally.tpot.Ranges()},
          {"itl", tally.itl.Ranges()},
          {"e2e", tally.e2e.Ranges()}};
}

std::string LatencyRow(const char* name, const nlohmann::json& latency) {
  std::string row = absl::StrFormat("  %-12s %9.3f", name, latency["mean"].get<double>());
  for (const auto& [quantile, unused] : kQuantiles) {
    absl::StrAppendFormat(&row, " %9.3f", latency[quantile].get<double>());
  }
  return absl::StrCat(row, absl::StrFormat(" %9.3f\n", latency["max"].get<double>()));
}

// A text is quoted, its quotes doubled; null is an empty cell.
std::string CsvCell(const nlohmann::json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  return absl::StrCat("\"", absl::StrReplaceAll(value.get<std::string>(), {{"\"", "\"\""}}), "\"");
}

std::string LagRow(const nlohmann::json& lag_ms) {
  std::string row = "own lag      ";
  for (const auto& [lag, title] : {std::pair{"send", "sends"}, std::pair{"write", "writes"},
                                   std::pair{"event", "event loop"}}) {
    if (!lag_ms.contains(lag)) continue;  // a file of before writes were timed
    absl::StrAppendFormat(&row, "%s %s p99 %.3f ms", row.ends_with(' ') ? "" : ",", title,
                          lag_ms[lag]["p99"].get<double>());
  }
  return row + "\n";
}

// Null where there were no prompt tokens.
nlohmann::json PrefixCacheShare(const nlohmann::json& result) {
  const nlohmann::json& tokens = result["tokens"];
  if (tokens["prompt"] == 0) return nullptr;
  return tokens["cached"].get<double>() / tokens["prompt"].get<double>();
}

std::vector<std::pair<std::string, nlohmann::json>> CsvColumns(const nlohmann::json& result) {
  std::vector<std::pair<std::string, nlohmann::json>> columns = {
      {"label", result["label"]}, {"started_at", result["started_at"]}};
  const nlohmann::json& options = result["options"];
  columns.emplace_back("arrival", options.value("arrival", "closed"));
  for (const char* key : {"concurrency", "rate", "prompt_tokens", "output_tokens"}) {
    columns.emplace_back(key, options.value(key, nlohmann::json()));
  }
  columns.emplace_back("window_seconds", result["window_seconds"]);
  for (const char* key : {"completed", "cancelled", "refused", "failed", "unfinished"}) {
    columns.emplace_back(key, result["requests"][key]);
  }
  for (const char* key :
       {"requests_per_second", "output_tokens_per_second", "total_tokens_per_second"}) {
    columns.emplace_back(key, result["throughput"][key]);
  }
  columns.emplace_back("prefix_cache_share", PrefixCacheShare(result));
  const nlohmann::json& goodput = result["goodput"];
  columns.emplace_back("goodput_share", goodput.is_null() ? goodput : goodput["share"]);
  for (const char* latency : kLatencies) {
    const nlohmann::json& values = result["latency_ms"][latency];
    columns.emplace_back(absl::StrCat(latency, "_mean_ms"), values["mean"]);
    for (const auto& [quantile, unused] : kQuantiles) {
      columns.emplace_back(absl::StrCat(latency, "_", quantile, "_ms"), values[quantile]);
    }
    columns.emplace_back(absl::StrCat(latency, "_max_ms"), values["max"]);
  }
  return columns;
}

}  // namespace

nlohmann::json ResultToJson(const RunIdentity& identity, const RunOptions& options,
                            const RunResult& result, const MetricSamples& server_delta) {
  const Tally& tally = result.tally;
  return {
      {"schema_version", kSchemaVersion},
      {"label", identity.label},
      {"started_at", identity.started_at},
      {"target", identity.target},
      {"annotations", identity.annotations},
      {"model", identity.model},
      {"options", identity.options},
      {"window_seconds", result.window_seconds},
      {"requests", RequestsJson(tally)},
      {"tokens",
       {{"prompt", tally.prompt_tokens},
        {"cached", tally.cached_tokens},
        {"output", tally.output_tokens},
        {"chunks", tally.chunks}}},
      {"throughput", ThroughputJson(result)},
      {"goodput", GoodputJson(options, result)},
      {"latency_ms",
       {{"ttft", LatencyJson(tally.ttft)},
        {"transport", LatencyJson(tally.transport)},
        {"tpot", LatencyJson(tally.tpot)},
        {"itl", LatencyJson(tally.itl)},
        {"e2e", LatencyJson(tally.e2e)}}},
      {"lag_ms",
       {{"send", LatencyJson(tally.send_lag)},
        {"write", LatencyJson(tally.write_lag)},
        {"event", LatencyJson(result.event_lag)}}},
      {"peak_outstanding", result.peak_outstanding},
      {"unsent_trace_lines", result.unsent_trace_lines},
      {"whole_run",
       {{"requests", tally.all_requests},
        {"prompt_tokens", tally.all_prompt_tokens},
        {"output_tokens", tally.all_output_tokens}}},
      {"bare_call_ms", LatencyJson(result.bare_call)},
      {"both_sides", server_delta.empty() ? nlohmann::json() : BothSidesJson(tally, server_delta)},
      {"server_delta", server_delta},
      {"timeline", TimelineJson(tally.timeline)},
      {"histograms_ns", HistogramsJson(tally)},
  };
}

bool IsResult(const nlohmann::json& document) {
  if (!document.is_object() ||
      document.value("schema_version", nlohmann::json()) != kSchemaVersion) {
    return false;
  }
  for (const char* part : {"requests", "tokens", "throughput", "latency_ms", "lag_ms"}) {
    if (!document.contains(part) || !document[part].is_object()) return false;
  }
  return document.contains("goodput");
}

std::string CsvHeader(const nlohmann::json& result) {
  return absl::StrJoin(CsvColumns(result), ",", [](std::string* line, const auto& column) {
    absl::StrAppend(line, column.first);
  });
}

std::string CsvLine(const nlohmann::json& result) {
  return absl::StrJoin(CsvColumns(result), ",", [](std::string* line, const auto& column) {
    absl::StrAppend(line, CsvCell(column.second));
  });
}

std::string ResultTable(const nlohmann::json& result) {
  const nlohmann::json& requests = result["requests"];
  const nlohmann::json& throughput = result["throughput"];
  std::string table = absl::StrFormat(
      "requests      completed %d  cancelled %d  refused %d  failed %d  unfinished %d\n",
      requests["completed"].get<int64_t>(), requests["cancelled"].get<int64_t>(),
      requests["refused"].get<int64_t>(), requests["failed"].get<int64_t>(),
      requests["unfinished"].get<int64_t>());
  for (const auto& [code, text] : requests["first_message"].items()) {
    absl::StrAppendFormat(&table, "  %s  %d times, first: %s\n", code,
                          requests["by_code"][code].get<int64_t>(), text.get<std::string>());
  }
  absl::StrAppendFormat(&table, "throughput    %.2f req/s  %.1f output tok/s  %.1f total tok/s\n",
                        throughput["requests_per_second"].get<double>(),
                        throughput["output_tokens_per_second"].get<double>(),
                        throughput["total_tokens_per_second"].get<double>());
  if (const nlohmann::json share = PrefixCacheShare(result); !share.is_null()) {
    absl::StrAppendFormat(&table, "prefix cache  %.1f %% of prompt tokens\n",
                          100.0 * share.get<double>());
  }
  if (const int64_t lines = result.value("unsent_trace_lines", int64_t{0}); lines > 0) {
    absl::StrAppendFormat(&table, "trace         %d lines were not sent: the run ended before\n",
                          lines);
  }
  if (!result["goodput"].is_null()) {
    absl::StrAppendFormat(&table, "goodput       %.2f req/s within the SLO (%.2f %%)\n",
                          result["goodput"]["requests_per_second"].get<double>(),
                          100.0 * result["goodput"]["share"].get<double>());
  }
  absl::StrAppendFormat(&table, "latency, ms   %9s %9s %9s %9s %9s %9s %9s\n", "mean", "p50", "p90",
                        "p95", "p99", "p99.9", "max");
  for (const char* latency : kLatencies) {
    table += LatencyRow(latency, result["latency_ms"][latency]);
  }
  table += LagRow(result["lag_ms"]);
  const nlohmann::json both_sides = result.value("both_sides", nlohmann::json());
  if (!both_sides.is_null()) table += BothSidesTable(both_sides);
  if (result.contains("bare_call_ms")) {
    absl::StrAppendFormat(&table, "bare call     %.3f ms: gRPC both ways, before the load\n",
                          result["bare_call_ms"]["mean"].get<double>());
  }
  return table;
}

}  // namespace parallax::loadgen
