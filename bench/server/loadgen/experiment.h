// Experiment: one measured run against a server, from options to a result document.
//
// Thread safety: Run from one thread; RequestStop from any.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_EXPERIMENT_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_EXPERIMENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/server/loadgen/load_driver.h"
#include "bench/server/loadgen/workload.h"
#include "clients/cpp/channel.h"
#include "engine/base/mutex.h"
#include "nlohmann/json.hpp"
#include "parallax/v1/inference.pb.h"

namespace parallax::loadgen {

struct ExperimentOptions {
  client::ChannelOptions channel;
  int32_t connections = 0;      // [1, 1024]; 0 = DefaultConnections of the run's concurrency
  std::string metrics_address;  // "host:port"; empty = do not scrape
  std::string label;
  std::map<std::string, std::string> annotations;  // copied into the result: commit, machine, ...
  RunOptions run;
  WorkloadOptions workload;
};

/// As asked for, or what follows from the run's concurrency.
int32_t NumConnections(const ExperimentOptions& options);

/// The options that shape the load, as they stand in a result file.
nlohmann::json OptionsToJson(const ExperimentOptions& options);

class Experiment {
 public:
  /// Connects and asks the server for its model. UNAVAILABLE if it cannot be reached.
  static absl::StatusOr<std::unique_ptr<Experiment>> Connect(const client::ChannelOptions& channel);

  /// Runs once with these options (the channel's are those of Connect) and returns the result
  /// document of ResultToJson. A trace that is sent at its own times and has no duration is
  /// measured to its end.
  absl::StatusOr<nlohmann::json> Run(const ExperimentOptions& options,
                                     const std::function<void(const Progress&)>& on_progress);

  /// The server's model, as it stands in a result file.
  const nlohmann::json& model() const { return model_; }

  /// Makes the run in progress, and all later ones, return CANCELLED.
  void RequestStop();

 private:
  explicit Experiment(const client::ChannelOptions& channel) : channel_(channel) {}
  /// All are made before the first request is timed.
  absl::Status OpenConnections(int32_t count);
  void KeepModelInfo(const v1::GetModelInfoResponse& info);

  const client::ChannelOptions channel_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;  // those of earlier runs stay open
  nlohmann::json model_;
  int32_t vocab_size_ = 0;
  int32_t max_context_tokens_ = 0;
  int32_t streams_per_connection_ = 0;  // 0: the server does not say

  Mutex mutex_;
  bool stop_ PARALLAX_GUARDED_BY(mutex_) = false;
  LoadDriver* driver_ PARALLAX_GUARDED_BY(mutex_) = nullptr;  // while a run is in progress
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_EXPERIMENT_H_
