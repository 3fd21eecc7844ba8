#include "bench/server/loadgen/load_driver.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <limits>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/server/loadgen/event_lag_probe.h"
#include "bench/server/loadgen/stream.h"
#include "engine/base/mutex.h"

namespace parallax::loadgen {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr double kLagQuantile = 0.99;
// Arrivals and the workload must not be drawn from the same numbers.
constexpr uint64_t kArrivalSeed = 0x5ca1ab1e;

int64_t Nanoseconds(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

std::chrono::steady_clock::time_point TimePoint(int64_t ns) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(ns));
}

absl::Status CheckRange(const char* option, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": ", value, " is outside [", low, ", ", high, "]"));
}

absl::Status CheckLag(const char* what, const Histogram& lag, double max_lag_ms) {
  const double ms = static_cast<double>(lag.ValueAtQuantile(kLagQuantile)) / 1e6;
  if (ms <= max_lag_ms) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the load generator lagged: 99 % of ", what, " within ", ms, " ms, more than max_lag_ms = ",
      max_lag_ms, "; its latencies would be its own. Lower the load or use a faster client"));
}

}  // namespace

absl::Status ValidateRunOptions(const RunOptions& options) {
  if ((options.concurrency > 0) == options.arrivals.has_value()) {
    return absl::InvalidArgumentError("either a concurrency or a rate is needed, not both");
  }
  if (options.arrivals.has_value()) {
    if (absl::Status status = ValidateArrivalOptions(*options.arrivals); !status.ok()) {
      return status;
    }
  }
  for (const auto& [name, value, low] :
       {std::tuple{"warmup_seconds", options.warmup_seconds, 0.0},
        std::tuple{"duration_seconds", options.duration_seconds, 0.001},
        std::tuple{"drain_seconds", options.drain_seconds, 0.0}}) {
    if (absl::Status status = CheckRange(name, value, low, 86400.0); !status.ok()) return status;
  }
  if (absl::Status s = CheckRange("max_lag_ms", options.max_lag_ms, 0.1, 1e6); !s.ok()) return s;
  return CheckRange("max_outstanding", options.max_outstanding, 1, 1'000'000);
}

class LoadDriver::Impl {
 public:
  Impl(std::vector<std::shared_ptr<grpc::Channel>> channels, const RunOptions& options,
       Workload workload)
      : options_(options), workload_(std::move(workload)) {
    for (const std::shared_ptr<grpc::Channel>& channel : channels) {
      stubs_.push_back(v1::InferenceService::NewStub(channel));
    }
    if (options_.arrivals.has_value() && options_.arrivals->kind != ArrivalKind::kTrace) {
      arrivals_.emplace(*options_.arrivals, workload_.seed() ^ kArrivalSeed);
    }
  }

  absl::StatusOr<RunResult> Run(const std::function<void(const Progress&)>& on_progress);
  void RequestStop();

 private:
  void SendUntil(int64_t end_ns, const std::function<void(const Progress&)>& on_progress);
  void SendDue(int64_t now_ns);
  void StartOne(int64_t intended_ns);
  void OnStreamDone(Stream* stream);
  void Drain(int64_t deadline_ns);
  bool MaySend() const;
  int64_t NextIntendedNs();
  Progress Snapshot(int64_t now_ns);
  absl::StatusOr<RunResult> Finish(double window_seconds);

  const RunOptions options_;
  Workload workload_;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
  std::optional<ArrivalProcess> arrivals_;
  std::unique_ptr<Recorder> recorder_;
  EventLagProbe event_lag_;

  // The sending thread's own.
  int64_t start_ns_ = 0;
  int64_t window_begin_ns_ = 0;
  int64_t next_intended_ns_ = 0;  // open loop
  size_t next_trace_line_ = 0;
  int64_t num_started_ = 0;
  int32_t peak_outstanding_ = 0;
  Histogram send_lag_;

  Mutex mutex_;
  CondVar changed_;
  bool stop_ PARALLAX_GUARDED_BY(mutex_) = false;
  std::unordered_map<Stream*, std::shared_ptr<Stream>> live_ PARALLAX_GUARDED_BY(mutex_);
  std::deque<int64_t> freed_ns_ PARALLAX_GUARDED_BY(mutex_);  // closed loop: places to refill
  int64_t num_finished_ PARALLAX_GUARDED_BY(mutex_) = 0;
};

LoadDriver::LoadDriver(std::vector<std::shared_ptr<grpc::Channel>> channels,
                       const RunOptions& options, Workload workload)
    : impl_(std::make_unique<Impl>(std::move(channels), options, std::move(workload))) {}

LoadDriver::~LoadDriver() = default;

absl::StatusOr<RunResult> LoadDriver::Run(const std::function<void(const Progress&)>& on_progress) {
  return impl_->Run(on_progress);
}

void LoadDriver::RequestStop() { impl_->RequestStop(); }

absl::StatusOr<RunResult> LoadDriver::Impl::Run(
    const std::function<void(const Progress&)>& on_progress) {
  start_ns_ = NowNs();
  window_begin_ns_ = start_ns_ + Nanoseconds(options_.warmup_seconds);
  const int64_t window_end_ns = window_begin_ns_ + Nanoseconds(options_.duration_seconds);
  recorder_ = std::make_unique<Recorder>(options_.slo, start_ns_, window_begin_ns_, window_end_ns);
  if (options_.concurrency > 0) {
    MutexLock lock(&mutex_);
    freed_ns_.assign(options_.concurrency, start_ns_);
  } else {
    next_intended_ns_ = NextIntendedNs();
  }
  event_lag_.Start();
  SendUntil(window_end_ns, on_progress);
  // With nothing left to send, the window closes when the last stream has ended.
  Drain(std::max(NowNs(), MaySend() ? 0 : window_end_ns) + Nanoseconds(options_.drain_seconds));
  const int64_t closed_ns = MaySend() ? window_end_ns : std::min(NowNs(), window_end_ns);
  event_lag_.Stop();
  return Finish(static_cast<double>(closed_ns - window_begin_ns_) / 1e9);
}

bool LoadDriver::Impl::MaySend() const {
  return next_intended_ns_ != kNever &&
         (options_.max_requests == 0 || num_started_ < options_.max_requests);
}

int64_t LoadDriver::Impl::NextIntendedNs() {
  if (arrivals_.has_value()) return start_ns_ + arrivals_->NextNs();
  const std::vector<TraceEntry>& trace = workload_.trace();
  if (next_trace_line_ >= trace.size()) return kNever;
  return start_ns_ + Nanoseconds(*trace[next_trace_line_++].timestamp_seconds);
}

void LoadDriver::Impl::SendUntil(int64_t end_ns,
                                 const std::function<void(const Progress&)>& on_progress) {
  int64_t next_progress_ns = start_ns_ + kSecondNs;
  for (int64_t now_ns = NowNs(); now_ns < end_ns && MaySend(); now_ns = NowNs()) {
    SendDue(now_ns);
    if (on_progress != nullptr && now_ns >= next_progress_ns) {
      on_progress(Snapshot(now_ns));
      next_progress_ns += kSecondNs;
    }
    if (!MaySend()) return;
    int64_t wake_ns = std::min(end_ns, next_progress_ns);
    if (options_.concurrency == 0) wake_ns = std::min(wake_ns, next_intended_ns_);
    MutexLock lock(&mutex_);
    while (!stop_ && freed_ns_.empty() && changed_.WaitUntil(&mutex_, TimePoint(wake_ns))) {
    }
    if (stop_) return;
  }
}

void LoadDriver::Impl::SendDue(int64_t now_ns) {
  if (options_.concurrency == 0) {
    while (next_intended_ns_ <= now_ns && MaySend()) {
      StartOne(next_intended_ns_);
      next_intended_ns_ = NextIntendedNs();
    }
    return;
  }
  while (MaySend()) {
    int64_t intended_ns = 0;
    {
      MutexLock lock(&mutex_);
      if (freed_ns_.empty()) return;
      intended_ns = freed_ns_.front();
      freed_ns_.pop_front();
    }
    // The first round has no moment it was meant for: it starts as fast as it can.
    if (num_started_ < options_.concurrency) intended_ns = NowNs();
    StartOne(intended_ns);
  }
}

void LoadDriver::Impl::StartOne(int64_t intended_ns) {
  auto stream = std::make_shared<Stream>(workload_.Next(), intended_ns, options_.bearer_token,
                                         recorder_.get(), [this](Stream* s) { OnStreamDone(s); });
  {
    MutexLock lock(&mutex_);
    live_.emplace(stream.get(), stream);
    peak_outstanding_ = std::max(peak_outstanding_, static_cast<int32_t>(live_.size()));
  }
  // What was late before the window is in none of its latencies: in a closed loop the places that
  // come free while the first streams are still being started.
  if (intended_ns >= window_begin_ns_) send_lag_.Record(NowNs() - intended_ns);
  stream->Start(stubs_[num_started_ % stubs_.size()].get());
  ++num_started_;
}

void LoadDriver::Impl::OnStreamDone(Stream* stream) {
  std::shared_ptr<Stream> ended;  // freed after the lock
  MutexLock lock(&mutex_);
  const auto it = live_.find(stream);
  ended = std::move(it->second);
  live_.erase(it);
  ++num_finished_;
  if (options_.concurrency > 0) freed_ns_.push_back(NowNs());
  changed_.NotifyOne();
}

void LoadDriver::Impl::Drain(int64_t deadline_ns) {
  std::vector<std::shared_ptr<Stream>> late;
  {
    MutexLock lock(&mutex_);
    while (!stop_ && !live_.empty() && changed_.WaitUntil(&mutex_, TimePoint(deadline_ns))) {
    }
    for (const auto& [key, stream] : live_) late.push_back(stream);
  }
  // Without the lock: a cancellation may run the call's last callback on this thread.
  for (const std::shared_ptr<Stream>& stream : late) stream->CutOff();
  MutexLock lock(&mutex_);
  while (!live_.empty()) changed_.Wait(&mutex_);
}

Progress LoadDriver::Impl::Snapshot(int64_t now_ns) {
  Progress progress;
  progress.elapsed_seconds = static_cast<double>(now_ns - start_ns_) / 1e9;
  progress.tokens_per_second = recorder_->TokensOfSecond((now_ns - start_ns_) / kSecondNs - 1);
  MutexLock lock(&mutex_);
  progress.started = num_started_;
  progress.finished = num_finished_;
  progress.outstanding = static_cast<int32_t>(live_.size());
  return progress;
}

absl::StatusOr<RunResult> LoadDriver::Impl::Finish(double window_seconds) {
  {
    MutexLock lock(&mutex_);
    if (stop_) return absl::CancelledError("stopped before the run was over");
  }
  RunResult result;
  result.tally = recorder_->Collect();
  result.window_seconds = window_seconds;
  result.send_lag = send_lag_;
  result.event_lag = event_lag_.Collect();
  result.peak_outstanding = peak_outstanding_;
  if (absl::Status s = CheckLag("requests sent", result.send_lag, options_.max_lag_ms); !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckLag("timers fired", result.event_lag, options_.max_lag_ms); !s.ok()) {
    return s;
  }
  if (options_.concurrency == 0 && peak_outstanding_ > options_.max_outstanding) {
    return absl::FailedPreconditionError(absl::StrCat(
        peak_outstanding_,
        " streams were live at once, more than max_outstanding = ", options_.max_outstanding));
  }
  return result;
}

void LoadDriver::Impl::RequestStop() {
  MutexLock lock(&mutex_);
  stop_ = true;
  changed_.NotifyOne();
}

}  // namespace parallax::loadgen
