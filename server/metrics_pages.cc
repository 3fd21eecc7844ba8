#include "server/metrics_pages.h"

#include <cmath>

#include "nlohmann/json.hpp"
#include "prometheus/text_serializer.h"

namespace parallax::server {
namespace {

using nlohmann::json;

json HistogramJson(const prometheus::ClientMetric::Histogram& histogram) {
  json buckets = json::array();
  for (const auto& bucket : histogram.bucket) {
    const json bound = std::isinf(bucket.upper_bound) ? json() : json(bucket.upper_bound);
    buckets.push_back({bound, bucket.cumulative_count});
  }
  return {{"count", histogram.sample_count}, {"sum", histogram.sample_sum}, {"buckets", buckets}};
}

json SeriesJson(const prometheus::ClientMetric& metric, prometheus::MetricType type) {
  json series = json::object();
  if (type == prometheus::MetricType::Histogram) {
    series = HistogramJson(metric.histogram);
  } else {
    const bool is_counter = type == prometheus::MetricType::Counter;
    series["value"] = is_counter ? metric.counter.value : metric.gauge.value;
  }
  series["labels"] = json::object();
  for (const auto& label : metric.label) series["labels"][label.name] = label.value;
  return series;
}

}  // namespace

std::string MetricsText(const prometheus::Collectable& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.Collect());
}

json MetricsJson(const prometheus::Collectable& metrics) {
  json families = json::object();
  for (const prometheus::MetricFamily& family : metrics.Collect()) {
    json& list = families[family.name] = json::array();
    for (const auto& metric : family.metric) list.push_back(SeriesJson(metric, family.type));
  }
  return families;
}

}  // namespace parallax::server
