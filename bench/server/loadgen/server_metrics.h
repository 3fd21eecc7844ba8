// The server's own counters, read from its /metrics page before and after a run, so that
// both sides' counts of requests, tokens and latencies can be laid side by side.
//
// Thread safety: stateless.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_SERVER_METRICS_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_SERVER_METRICS_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace parallax::loadgen {

/// Sample name with labels, as written on the page, to value. Buckets are left out.
using MetricSamples = std::map<std::string, double>;

/// Parses Prometheus's text format 0.0.4. INVALID_ARGUMENT quotes the line.
absl::StatusOr<MetricSamples> ParseMetricsText(std::string_view text);

/// Reads `http://host:port/metrics`. `address` is "host:port".
absl::StatusOr<MetricSamples> ScrapeMetrics(const std::string& address);

/// after - before, of the samples that are counters (_total, _sum, _count) and changed.
MetricSamples CounterDelta(const MetricSamples& before, const MetricSamples& after);

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_SERVER_METRICS_H_
