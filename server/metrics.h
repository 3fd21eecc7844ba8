// ServerMetrics: what the engine and the RPCs report, as Prometheus metrics.
//
// Names and meaning follow vLLM's where it has the same thing (`parallax:` for `vllm:`), so
// that its dashboards carry over. Every metric has the label model_name. Time histograms
// begin at 100 us. metrics.cc lists them all.
//
// Together with metrics_pages the only user of Prometheus in this project.
//
// Thread safety: safe; nothing here takes a lock (see atomic_metrics.h).
#ifndef PARALLAX_SERVER_METRICS_H_
#define PARALLAX_SERVER_METRICS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine_observer.h"
#include "grpcpp/support/status.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "server/atomic_metrics.h"
#include "server/finish_reason.h"
#include "server/metrics_device.h"
#include "server/status_mapping.h"

namespace parallax::server {

enum class RpcMethod {
  kGenerate,
  kGenerateStream,
  kTokenize,
  kDetokenize,
  kGetModelInfo,
  kAbort,
  kVllmGenerate,  // of VllmEngine
  kVllmControl,   // all other methods of VllmEngine
};
inline constexpr int kNumRpcMethods = 8;
std::string_view RpcMethodName(RpcMethod method);

class ServerMetrics final : public EngineObserver, public prometheus::Collectable {
 public:
  explicit ServerMetrics(std::string model_name);

  /// Once for each call of InferenceService or VllmEngine, with the code that the server ended it
  /// with.
  void OnRpc(RpcMethod method, grpc::StatusCode code);
  /// Once for each call, when its first token leaves the server: the time since it arrived.
  void OnFirstToken(absl::Duration since_arrival);

  void OnAccepted() override;
  void OnSubmitted(int32_t prompt_tokens) override;
  void OnRefused(absl::StatusCode code) override;
  void OnStarted(const RequestTimings& timings) override;
  void OnInterTokenLatency(absl::Duration gap) override;
  void OnStep(const StepStats& stats) override;
  void OnGauges(const EngineGauges& gauges) override;
  void OnFinished(const FinishedRequest& request) override;

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  using Families = std::vector<prometheus::MetricFamily>;

  void CollectTimes(Families* families) const;
  void CollectSizes(Families* families) const;
  void CollectCounters(Families* families) const;
  void CollectGauges(Families* families) const;
  int64_t Finished() const;
  double Waiting() const;
  void CollectFinished(Families* families) const;
  void CollectRefused(Families* families) const;
  void CollectRpcs(Families* families) const;

  prometheus::ClientMetric Labelled() const;
  void AddHistogram(std::string_view name, std::string_view help, const AtomicHistogram& histogram,
                    Families* families) const;
  void AddCounter(std::string_view name, std::string_view help, const AtomicCounter& counter,
                  Families* families) const;
  void AddGauge(std::string_view name, std::string_view help, double value,
                Families* families) const;

  const std::string model_name_;
  const absl::Time started_;

  AtomicHistogram time_to_first_token_;
  AtomicHistogram inter_token_latency_;
  AtomicHistogram e2e_latency_;
  AtomicHistogram queue_time_;
  AtomicHistogram prefill_time_;
  AtomicHistogram decode_time_;
  AtomicHistogram step_time_;
  AtomicHistogram batch_size_;
  AtomicHistogram step_tokens_;
  AtomicHistogram request_prompt_tokens_;
  AtomicHistogram request_generation_tokens_;

  AtomicCounter accepted_;
  AtomicCounter submitted_;
  AtomicCounter prompt_tokens_;
  AtomicCounter generation_tokens_;
  AtomicCounter step_prefill_tokens_;
  AtomicCounter step_decode_tokens_;
  AtomicCounter prefix_queries_;
  AtomicCounter prefix_hits_;
  AtomicCounter preemptions_;

  AtomicGauge running_;
  AtomicGauge pages_total_;
  AtomicGauge pages_used_;
  AtomicGauge pages_cached_;
  AtomicGauge probe_bytes_total_;
  AtomicGauge probe_bytes_used_;
  DeviceMetrics device_;

  std::array<AtomicCounter, kNumFinishReasons> finished_;
  std::array<AtomicCounter, kNumStatusCodes> refused_;
  std::array<std::array<AtomicCounter, kNumStatusCodes>, kNumRpcMethods> rpcs_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_METRICS_H_
