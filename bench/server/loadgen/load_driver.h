// LoadDriver: one run against a server.
//
// Closed loop: `concurrency` streams are kept live; the next request is intended for the
// moment the one before it ended, and sent by the thread that saw it end. Open loop: requests are
// intended for the times an ArrivalProcess or a trace says, whether or not earlier ones have
// ended. Latency is measured from the intended start, so a server that stalls is charged for the
// requests that waited (no coordinated omission).
//
// Measured are the requests that are due in the window. Until the last of them has ended the load
// goes on, or they would end beside fewer and fewer others; what is sent after the window is in
// no latency.
//
// The driver watches itself. Three lags are recorded: how late the window's requests were sent
// after their intended start, how long gRPC took to write them, and how late timers fire on
// gRPC's own event threads. If the 99th percentile of one exceeds `max_lag_ms` the client was the
// bottleneck, its latencies would be its own, and Run returns FAILED_PRECONDITION instead of a
// result. So it does when it had more streams live than its connections take.
//
// Thread safety: Run from one thread; RequestStop from any thread or signal-waiting thread.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_LOAD_DRIVER_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_LOAD_DRIVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "bench/server/loadgen/arrival_process.h"
#include "bench/server/loadgen/connection_pool.h"
#include "bench/server/loadgen/recorder.h"
#include "bench/server/loadgen/workload.h"

namespace parallax::loadgen {

struct RunOptions {
  int32_t concurrency = 0;                 // closed loop if > 0
  std::optional<ArrivalOptions> arrivals;  // open loop
  /// Of the arrivals; the workload has its own. Two rates with one seed have the same arrivals,
  /// nearer together or further apart, so that the runs of a search differ by nothing else.
  uint64_t arrival_seed = 0;
  double warmup_seconds = 0.0;
  double duration_seconds = 10.0;  // the measurement window; 0: all of a trace (Experiment::Run)
  double drain_seconds = 30.0;  // for requests of the window to end after it, then for all others
  int64_t max_requests = 0;     // stop sending after this many; 0 = no limit
  int32_t max_outstanding = 20000;  // open loop: at more live streams than this the run fails
  double max_lag_ms = 20.0;
  Slo slo;
  std::string bearer_token;
};

/// Whether the lines of a trace are sent at their own times.
bool IsTraceReplay(const RunOptions& options);

/// INVALID_ARGUMENT naming the option.
absl::Status ValidateRunOptions(const RunOptions& options);

struct RunResult {
  Tally tally;
  double window_seconds = 0.0;  // shorter than asked for if there was nothing left to send
  Histogram event_lag;
  int32_t peak_outstanding = 0;
  int64_t unsent_trace_lines = 0;  // a trace that is sent at its own times: what was left of it
  Histogram bare_call;             // of calls that the server answers at once, before the load
};

/// A moment's picture for the progress line.
struct Progress {
  double elapsed_seconds = 0.0;
  int64_t started = 0;
  int64_t finished = 0;
  int32_t outstanding = 0;
  int64_t tokens_per_second = 0;  // output, in the last whole second
};

class LoadDriver {
 public:
  LoadDriver(ConnectionPool connections, const RunOptions& options, Workload workload);
  ~LoadDriver();

  /// `on_progress` (may be null) is called once a second from the calling thread. Besides the
  /// errors above: RESOURCE_EXHAUSTED if `max_outstanding` was exceeded, DEADLINE_EXCEEDED if
  /// every request had ended before the window began.
  absl::StatusOr<RunResult> Run(const std::function<void(const Progress&)>& on_progress);

  /// Stops sending; live streams are cancelled and Run returns CANCELLED.
  void RequestStop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_LOAD_DRIVER_H_
