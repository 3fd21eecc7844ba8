// EventLagProbe: how late gRPC's event threads are.
//
// A timer is set through gRPC every few milliseconds; how long after its time its callback
// runs is how long a message that arrived then would have waited for a thread.
//
// Thread safety: Start, Stop and Collect from one thread.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_EVENT_LAG_PROBE_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_EVENT_LAG_PROBE_H_

#include <cstdint>

#include "bench/server/loadgen/histogram.h"
#include "engine/base/mutex.h"
#include "grpcpp/alarm.h"

namespace parallax::loadgen {

class EventLagProbe {
 public:
  static constexpr int64_t kPeriodNs = 5'000'000;

  void Start();
  /// Returns when no callback will run any more.
  void Stop();
  /// REQUIRES: stopped.
  Histogram Collect() const;

 private:
  void Arm() PARALLAX_REQUIRES(mutex_);
  void OnAlarm();

  mutable Mutex mutex_;
  CondVar idle_;
  bool running_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool armed_ PARALLAX_GUARDED_BY(mutex_) = false;
  int64_t due_ns_ PARALLAX_GUARDED_BY(mutex_) = 0;
  Histogram lag_ PARALLAX_GUARDED_BY(mutex_);
  // Two in turn: an alarm cannot be set again from inside its own callback.
  grpc::Alarm alarms_[2];
  int turn_ PARALLAX_GUARDED_BY(mutex_) = 0;
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_EVENT_LAG_PROBE_H_
