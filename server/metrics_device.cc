#include "server/metrics_device.h"

#include <span>
#include <string>
#include <utility>

#include "server/metrics_family.h"

namespace parallax::server {
namespace {

constexpr std::array kUses = {"weights", "activations", "probe_states", "kv_cache", "graphs"};
constexpr std::array kKinds = {"graph", "eager"};
constexpr std::array kPhases = {"load", "tune", "capture"};

}  // namespace

void DeviceMetrics::SetWork(const DeviceStats::Work& stats, Work* work) {
  work->steps.Set(stats.steps);
  work->nanoseconds.Set(static_cast<int64_t>(stats.seconds * 1e9));
  work->kilobytes.Set(static_cast<int64_t>(stats.bytes * 1e-3));
  work->gigaflops.Set(static_cast<int64_t>(stats.flops * 1e-9));
}

void DeviceMetrics::Set(const DeviceStats& stats) {
  const std::array<int64_t, kNumUses> bytes = {stats.weight_bytes, stats.activation_bytes,
                                               stats.probe_state_bytes, stats.kv_cache_bytes,
                                               stats.graph_bytes};
  for (int use = 0; use < kNumUses; ++use) memory_[use].Set(bytes[use]);
  SetWork(stats.graph_replays, &work_[0]);
  SetWork(stats.eager_steps, &work_[1]);
  peak_bytes_per_second_.Set(static_cast<int64_t>(stats.peak_bytes_per_second));
  peak_flops_per_second_.Set(static_cast<int64_t>(stats.peak_flops_per_second));
  const std::array<double, kNumPhases> seconds = {
      stats.start.load_seconds, stats.start.tune_seconds, stats.start.capture_seconds};
  for (int phase = 0; phase < kNumPhases; ++phase) {
    start_microseconds_[phase].Set(static_cast<int64_t>(seconds[phase] * 1e6));
  }
}

void DeviceMetrics::Collect(const prometheus::ClientMetric& base,
                            std::vector<prometheus::MetricFamily>* families) const {
  if (memory_[0].value() == 0) return;  // no GPU
  // One gauge, or one for each of `values`.
  const auto add_gauge = [&](const char* name, const char* help, const char* label,
                             std::span<const char* const> values, double scale,
                             std::span<const AtomicGauge> gauges) {
    auto family = Family(name, help, prometheus::MetricType::Gauge);
    for (size_t i = 0; i < gauges.size(); ++i) {
      prometheus::ClientMetric metric = base;
      if (label != nullptr) metric.label.push_back({label, values[i]});
      metric.gauge.value = scale * static_cast<double>(gauges[i].value());
      family.metric.push_back(std::move(metric));
    }
    families->push_back(std::move(family));
  };
  add_gauge("parallax:gpu_memory_bytes", "GPU memory reserved at start, by use.", "use", kUses, 1.0,
            memory_);
  add_gauge("parallax:gpu_start_seconds",
            "How long the start took, by phase: loading weights, tuning linear layers, capturing "
            "graphs.",
            "phase", kPhases, 1e-6, start_microseconds_);
  add_gauge("parallax:gpu_peak_bytes_per_second",
            "What the GPU's memory can move, by its clock and bus width.", nullptr, {}, 1.0,
            {&peak_bytes_per_second_, 1});
  add_gauge("parallax:gpu_peak_flops_per_second",
            "What the GPU's matrix units can compute in bfloat16, by their number and clock.",
            nullptr, {}, 1.0, {&peak_flops_per_second_, 1});

  const auto add = [&](const char* name, const char* help, AtomicGauge Work::*number,
                       double scale) {
    auto family = Family(name, help, prometheus::MetricType::Counter);
    for (int kind = 0; kind < kNumKinds; ++kind) {
      prometheus::ClientMetric metric = base;
      metric.label.push_back({"kind", kKinds[kind]});
      metric.counter.value = scale * static_cast<double>((work_[kind].*number).value());
      family.metric.push_back(std::move(metric));
    }
    families->push_back(std::move(family));
  };
  add("parallax:gpu_steps_total",
      "Steps of the GPU, by kind: a replayed graph (decode), or eager (prefill, mixed).",
      &Work::steps, 1.0);
  add("parallax:gpu_step_seconds_total", "Time of the GPU in these steps.", &Work::nanoseconds,
      1e-9);
  add("parallax:gpu_step_bytes_total",
      "Bytes these steps cannot do without: the weights once a step, keys and values read.",
      &Work::kilobytes, 1e3);
  add("parallax:gpu_step_flops_total", "Floating-point operations of the model in these steps.",
      &Work::gigaflops, 1e9);
}

}  // namespace parallax::server
