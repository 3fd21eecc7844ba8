#include "bench/server/loadgen/event_lag_probe.h"

#include <chrono>

#include "bench/server/loadgen/stream.h"

namespace parallax::loadgen {

void EventLagProbe::Start() {
  MutexLock lock(&mutex_);
  running_ = true;
  Arm();
}

void EventLagProbe::Stop() {
  MutexLock lock(&mutex_);
  running_ = false;
  while (armed_) idle_.Wait(&mutex_);
}

Histogram EventLagProbe::Collect() const {
  MutexLock lock(&mutex_);
  return lag_;
}

void EventLagProbe::Arm() {
  armed_ = true;
  due_ns_ = NowNs() + kPeriodNs;
  grpc::Alarm& alarm = alarms_[turn_];
  turn_ = 1 - turn_;
  alarm.Set(std::chrono::system_clock::now() + std::chrono::nanoseconds(kPeriodNs),
            [this](bool) { OnAlarm(); });
}

void EventLagProbe::OnAlarm() {
  MutexLock lock(&mutex_);
  lag_.Record(NowNs() - due_ns_);
  armed_ = false;
  if (running_) {
    Arm();
  } else {
    idle_.NotifyAll();
  }
}

}  // namespace parallax::loadgen
