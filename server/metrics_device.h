// What a GPU is used for and how well, as Prometheus metrics; absent on a server without one.
//
// Utilisation is left to queries, which know the interval: with
//   seconds = rate(parallax:gpu_step_seconds_total[1m]), and bytes and flops alike, per kind,
// model bandwidth utilisation is bytes / seconds / parallax:gpu_peak_bytes_per_second, model
// FLOP utilisation flops / seconds / parallax:gpu_peak_flops_per_second.
//
// Thread safety: safe; no locks (see atomic_metrics.h).
#ifndef PARALLAX_SERVER_METRICS_DEVICE_H_
#define PARALLAX_SERVER_METRICS_DEVICE_H_

#include <array>
#include <vector>

#include "engine/runner/model_runner.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_family.h"
#include "server/atomic_metrics.h"

namespace parallax::server {

class DeviceMetrics {
 public:
  void Set(const DeviceStats& stats);

  /// Every sample begins with the labels of `base`.
  void Collect(const prometheus::ClientMetric& base,
               std::vector<prometheus::MetricFamily>* families) const;

 private:
  // Units that keep years within 63 bits.
  struct Work {
    AtomicGauge steps;
    AtomicGauge nanoseconds;
    AtomicGauge kilobytes;
    AtomicGauge gigaflops;
  };
  static constexpr int kNumKinds = 2;  // a replayed graph, an eager step
  static constexpr int kNumUses = 5;
  static constexpr int kNumPhases = 3;

  static void SetWork(const DeviceStats::Work& stats, Work* work);

  std::array<AtomicGauge, kNumUses> memory_;
  std::array<Work, kNumKinds> work_;
  AtomicGauge peak_bytes_per_second_;
  AtomicGauge peak_flops_per_second_;
  std::array<AtomicGauge, kNumPhases> start_microseconds_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_METRICS_DEVICE_H_
