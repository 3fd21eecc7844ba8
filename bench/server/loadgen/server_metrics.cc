#include "bench/server/loadgen/server_metrics.h"

#include <httplib.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace parallax::loadgen {
namespace {

bool IsCounter(const std::string& sample) {
  const std::string name = sample.substr(0, sample.find('{'));
  return absl::EndsWith(name, "_total") || absl::EndsWith(name, "_sum") ||
         absl::EndsWith(name, "_count");
}

// The sample's name and labels end at the first space outside of quotes.
size_t EndOfName(std::string_view line) {
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (line[i] == ' ' && !quoted) {
      return i;
    }
  }
  return std::string_view::npos;
}

absl::Status ParseLine(std::string_view line, MetricSamples* samples) {
  const size_t end = EndOfName(line);
  double value = 0.0;
  if (end == std::string_view::npos || end == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics: no value in \"", std::string(line), "\""));
  }
  std::string_view rest = line.substr(end + 1);
  rest = rest.substr(0, rest.find(' '));  // a timestamp may follow
  if (!absl::SimpleAtod(std::string(rest), &value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics: \"", std::string(rest), "\" is no number"));
  }
  const std::string name(line.substr(0, end));
  if (!absl::StrContains(name, "_bucket{")) (*samples)[name] = value;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MetricSamples> ParseMetricsText(std::string_view text) {
  MetricSamples samples;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    if (absl::Status status = ParseLine(line, &samples); !status.ok()) return status;
  }
  return samples;
}

absl::StatusOr<MetricSamples> ScrapeMetrics(const std::string& address) {
  httplib::Client client("http://" + address);
  if (!client.is_valid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address \"", address, "\" is not host:port"));
  }
  client.set_connection_timeout(5);
  client.set_read_timeout(10);
  const httplib::Result response = client.Get("/metrics");
  if (!response) {
    return absl::UnavailableError(
        absl::StrCat("metrics of ", address, ": ", httplib::to_string(response.error())));
  }
  if (response->status != 200) {
    return absl::UnavailableError(
        absl::StrCat("metrics of ", address, ": HTTP ", response->status));
  }
  return ParseMetricsText(response->body);
}

MetricSamples CounterDelta(const MetricSamples& before, const MetricSamples& after) {
  MetricSamples delta;
  for (const auto& [name, value] : after) {
    if (!IsCounter(name)) continue;
    const auto it = before.find(name);
    const double change = value - (it == before.end() ? 0.0 : it->second);
    if (change != 0.0) delta[name] = change;
  }
  return delta;
}

}  // namespace parallax::loadgen
