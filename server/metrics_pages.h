// The metrics in the two forms that are served: Prometheus's text, and JSON for the status
// page. Both are one pass over Collect(): there is no second set of books.
//
// Thread safety: pure functions of what they are given.
#ifndef PARALLAX_SERVER_METRICS_PAGES_H_
#define PARALLAX_SERVER_METRICS_PAGES_H_

#include <string>

#include "nlohmann/json_fwd.hpp"
#include "prometheus/collectable.h"

namespace parallax::server {

inline constexpr char kMetricsTextType[] = "text/plain; version=0.0.4; charset=utf-8";

std::string MetricsText(const prometheus::Collectable& metrics);

/// An object: name to list of series. A series is {"labels", "value"}, or for a histogram
/// {"labels", "count", "sum", "buckets": [[bound, cumulative count], ...]}; the last bound,
/// infinity, is null.
nlohmann::json MetricsJson(const prometheus::Collectable& metrics);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_METRICS_PAGES_H_
