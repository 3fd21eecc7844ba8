#include "bench/server/loadgen/load_driver.h"

#include <algorithm>
#include <chrono>
#include <iterator>
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

absl::Status CheckLag(const char* what, const Histogram& lag, double max_lag_ms,
                      const char* advice) {
  const double ms = static_cast<double>(lag.ValueAtQuantile(kLagQuantile)) / 1e6;
  if (ms <= max_lag_ms) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the load generator lagged: 99 % of ", what, " within ", ms,
      " ms, more than max_lag_ms = ", max_lag_ms, "; its latencies would be its own. ", advice));
}

absl::Status CheckLags(const RunResult& result, double max_lag_ms) {
  constexpr char kTooSlow[] = "Lower the load or use a faster client";
  constexpr char kHeldBack[] =
      "The other end takes fewer streams of a connection, or does not read: raise --connections. "
      "Or gRPC slept after a second without events: raise --rate or --duration";
  if (absl::Status s = CheckLag("requests sent", result.tally.send_lag, max_lag_ms, kTooSlow);
      !s.ok()) {
    return s;
  }
  if (absl::Status s =
          CheckLag("requests written, once sent,", result.tally.write_lag, max_lag_ms, kHeldBack);
      !s.ok()) {
    return s;
  }
  return CheckLag("timers fired", result.event_lag, max_lag_ms, kTooSlow);
}

}  // namespace

bool IsTraceReplay(const RunOptions& options) {
  return options.arrivals.has_value() && options.arrivals->kind == ArrivalKind::kTrace;
}

absl::Status ValidateRunOptions(const RunOptions& options) {
  if ((options.concurrency > 0) == options.arrivals.has_value()) {
    return absl::InvalidArgumentError("either a concurrency or a rate is needed, not both");
  }
  if (options.arrivals.has_value()) {
    if (absl::Status status = ValidateArrivalOptions(*options.arrivals); !status.ok()) {
      return status;
    }
  }
  for (const auto& [name, value, low] : {std::tuple{"warmup_seconds", options.warmup_seconds, 0.0},
                                         std::tuple{"duration_seconds", options.duration_seconds,
                                                    IsTraceReplay(options) ? 0.0 : 0.001},
                                         std::tuple{"drain_seconds", options.drain_seconds, 0.0}}) {
    if (absl::Status status = CheckRange(name, value, low, 86400.0); !status.ok()) return status;
  }
  if (absl::Status s = CheckRange("max_lag_ms", options.max_lag_ms, 0.1, 1e6); !s.ok()) return s;
  return CheckRange("max_outstanding", options.max_outstanding, 1, 1'000'000);
}

class LoadDriver::Impl {
 public:
  Impl(ConnectionPool connections, const RunOptions& options, Workload workload)
      : options_(options), connections_(std::move(connections)), workload_(std::move(workload)) {
    if (options_.arrivals.has_value() && !IsTraceReplay(options_)) {
      arrivals_.emplace(*options_.arrivals, options_.arrival_seed ^ kArrivalSeed);
    }
  }

  absl::StatusOr<RunResult> Run(const std::function<void(const Progress&)>& on_progress);
  void RequestStop();

 private:
  struct LiveStream {
    std::shared_ptr<Stream> stream;
    size_t connection = 0;
    bool measured = false;
  };
  // Accounted for, but not started: that must be done without the lock.
  struct PlannedStream {
    std::shared_ptr<Stream> stream;
    StreamStub* stub = nullptr;
    void Start() const { stream->Start(stub); }
  };

  bool is_closed_loop() const { return options_.concurrency > 0; }
  absl::Status Begin();
  void Send(const std::function<void(const Progress&)>& on_progress);
  void FillPlaces();
  void SendDue(int64_t now_ns);
  void OnStreamDone(Stream* stream);
  void Drain();
  Progress Snapshot(int64_t now_ns);
  absl::StatusOr<RunResult> Finish();

  PlannedStream Plan(int64_t intended_ns) PARALLAX_REQUIRES(mutex_);
  bool MaySend() const PARALLAX_REQUIRES(mutex_);
  bool SendingIsOver(int64_t now_ns) const PARALLAX_REQUIRES(mutex_);
  bool HasGivenUp() const PARALLAX_REQUIRES(mutex_) { return stop_ || overloaded_; }
  int64_t NextIntendedNs() PARALLAX_REQUIRES(mutex_);
  int64_t NextWakeNs(int64_t now_ns) const PARALLAX_REQUIRES(mutex_);

  const RunOptions options_;
  EventLagProbe event_lag_;
  std::unique_ptr<Recorder> recorder_;
  // Set once, before the first stream.
  int64_t start_ns_ = 0;
  int64_t window_begin_ns_ = 0;
  int64_t window_end_ns_ = 0;
  int64_t drain_end_ns_ = 0;     // of the window's requests
  int64_t window_close_ns_ = 0;  // the window's end, or earlier: there was nothing left to send

  Mutex mutex_;
  CondVar changed_;
  ConnectionPool connections_ PARALLAX_GUARDED_BY(mutex_);
  Workload workload_ PARALLAX_GUARDED_BY(mutex_);
  std::optional<ArrivalProcess> arrivals_ PARALLAX_GUARDED_BY(mutex_);
  int64_t next_intended_ns_ PARALLAX_GUARDED_BY(mutex_) = 0;  // open loop
  size_t next_trace_line_ PARALLAX_GUARDED_BY(mutex_) = 0;
  bool sending_ PARALLAX_GUARDED_BY(mutex_) = true;
  bool stop_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool overloaded_ PARALLAX_GUARDED_BY(mutex_) = false;
  std::unordered_map<Stream*, LiveStream> live_ PARALLAX_GUARDED_BY(mutex_);
  int32_t measured_live_ PARALLAX_GUARDED_BY(mutex_) = 0;
  int32_t peak_outstanding_ PARALLAX_GUARDED_BY(mutex_) = 0;
  int64_t num_started_ PARALLAX_GUARDED_BY(mutex_) = 0;
  int64_t num_finished_ PARALLAX_GUARDED_BY(mutex_) = 0;
};

LoadDriver::LoadDriver(ConnectionPool connections, const RunOptions& options, Workload workload)
    : impl_(std::make_unique<Impl>(std::move(connections), options, std::move(workload))) {}

LoadDriver::~LoadDriver() = default;

absl::StatusOr<RunResult> LoadDriver::Run(const std::function<void(const Progress&)>& on_progress) {
  return impl_->Run(on_progress);
}

void LoadDriver::RequestStop() { impl_->RequestStop(); }

absl::StatusOr<RunResult> LoadDriver::Impl::Run(
    const std::function<void(const Progress&)>& on_progress) {
  if (absl::Status status = Begin(); !status.ok()) return status;
  event_lag_.Start();
  Send(on_progress);
  Drain();
  event_lag_.Stop();
  return Finish();
}

absl::Status LoadDriver::Impl::Begin() {
  start_ns_ = NowNs();
  window_begin_ns_ = start_ns_ + Nanoseconds(options_.warmup_seconds);
  window_end_ns_ = window_begin_ns_ + Nanoseconds(options_.duration_seconds);
  drain_end_ns_ = window_end_ns_ + Nanoseconds(options_.drain_seconds);
  recorder_ = std::make_unique<Recorder>(options_.slo, start_ns_, window_begin_ns_, window_end_ns_);
  MutexLock lock(&mutex_);
  if (!is_closed_loop()) {
    next_intended_ns_ = NextIntendedNs();
    return absl::OkStatus();
  }
  const int64_t most = options_.max_requests == 0 ? options_.concurrency : options_.max_requests;
  return connections_.CheckRoom(
      static_cast<int32_t>(std::min<int64_t>(options_.concurrency, most)));
}

bool LoadDriver::Impl::MaySend() const {
  return sending_ && !HasGivenUp() && next_intended_ns_ != kNever &&
         (options_.max_requests == 0 || num_started_ < options_.max_requests);
}

bool LoadDriver::Impl::SendingIsOver(int64_t now_ns) const {
  return !MaySend() || now_ns >= drain_end_ns_ || (now_ns >= window_end_ns_ && measured_live_ == 0);
}

int64_t LoadDriver::Impl::NextIntendedNs() {
  if (arrivals_.has_value()) return start_ns_ + arrivals_->NextNs();
  const std::vector<TraceEntry>& trace = workload_.trace();
  if (next_trace_line_ >= trace.size()) return kNever;
  return start_ns_ + Nanoseconds(*trace[next_trace_line_++].timestamp_seconds);
}

int64_t LoadDriver::Impl::NextWakeNs(int64_t now_ns) const {
  const int64_t next_second_ns = now_ns + kSecondNs - (now_ns - start_ns_) % kSecondNs;
  const int64_t phase_end_ns = now_ns < window_end_ns_ ? window_end_ns_ : drain_end_ns_;
  const int64_t wake_ns = std::min(next_second_ns, phase_end_ns);
  return is_closed_loop() ? wake_ns : std::min(wake_ns, next_intended_ns_);
}

void LoadDriver::Impl::Send(const std::function<void(const Progress&)>& on_progress) {
  if (is_closed_loop()) FillPlaces();
  for (int64_t next_progress_ns = start_ns_ + kSecondNs;;) {
    const int64_t now_ns = NowNs();
    if (!is_closed_loop()) SendDue(now_ns);
    if (on_progress != nullptr && now_ns >= next_progress_ns) {
      on_progress(Snapshot(now_ns));
      next_progress_ns += kSecondNs;
    }
    MutexLock lock(&mutex_);
    if (SendingIsOver(now_ns)) {
      sending_ = false;
      return;
    }
    changed_.WaitUntil(&mutex_, TimePoint(NextWakeNs(now_ns)));
  }
}

// The first round has no moment it was meant for: it starts as fast as it can. From then on
// every stream that ends starts the next one.
void LoadDriver::Impl::FillPlaces() {
  for (int32_t i = 0; i < options_.concurrency; ++i) {
    PlannedStream next;
    {
      MutexLock lock(&mutex_);
      if (!MaySend()) return;
      next = Plan(NowNs());
    }
    next.Start();
  }
}

void LoadDriver::Impl::SendDue(int64_t now_ns) {
  while (true) {
    PlannedStream next;
    {
      MutexLock lock(&mutex_);
      if (next_intended_ns_ > now_ns || !MaySend()) return;
      next = Plan(next_intended_ns_);
      next_intended_ns_ = NextIntendedNs();
    }
    next.Start();
  }
}

LoadDriver::Impl::PlannedStream LoadDriver::Impl::Plan(int64_t intended_ns) {
  const bool measured = recorder_->InWindow(intended_ns);
  const size_t connection = connections_.Take();
  auto stream = std::make_shared<Stream>(workload_.Next(), intended_ns, options_.bearer_token,
                                         recorder_.get(), [this](Stream* s) { OnStreamDone(s); });
  live_.emplace(stream.get(), LiveStream{stream, connection, measured});
  ++num_started_;
  peak_outstanding_ = std::max(peak_outstanding_, static_cast<int32_t>(live_.size()));
  overloaded_ = !is_closed_loop() && peak_outstanding_ > options_.max_outstanding;
  if (measured) ++measured_live_;
  return {std::move(stream), connections_.stub(connection)};
}

void LoadDriver::Impl::OnStreamDone(Stream* stream) {
  const int64_t now_ns = NowNs();
  LiveStream ended;
  PlannedStream next;
  {
    MutexLock lock(&mutex_);
    const auto it = live_.find(stream);
    ended = std::move(it->second);
    live_.erase(it);
    connections_.Release(ended.connection);
    if (ended.measured) --measured_live_;
    ++num_finished_;
    // Under the same lock: once there is no live stream the driver may be gone.
    if (SendingIsOver(now_ns)) {
      changed_.NotifyOne();
    } else if (is_closed_loop()) {
      next = Plan(now_ns);
    }
  }
  ended.stream.reset();  // without the lock, and before the next one's time runs
  if (next.stream != nullptr) next.Start();
}

void LoadDriver::Impl::Drain() {
  std::vector<std::shared_ptr<Stream>> late;
  {
    MutexLock lock(&mutex_);
    while (!HasGivenUp() && measured_live_ > 0 &&
           changed_.WaitUntil(&mutex_, TimePoint(drain_end_ns_))) {
    }
    // The others are in no latency, but both sides count them.
    const int64_t deadline_ns = NowNs() + Nanoseconds(options_.drain_seconds);
    while (!HasGivenUp() && measured_live_ == 0 && !live_.empty() &&
           changed_.WaitUntil(&mutex_, TimePoint(deadline_ns))) {
    }
    for (const auto& [key, live] : live_) late.push_back(live.stream);
  }
  // Without the lock: a cancellation may run the call's last callback on this thread.
  for (const std::shared_ptr<Stream>& stream : late) stream->CutOff();
  MutexLock lock(&mutex_);
  while (!live_.empty()) changed_.Wait(&mutex_);
  // With nothing left to send, the window closes when the last stream has ended.
  window_close_ns_ = std::min(NowNs(), window_end_ns_);
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

absl::StatusOr<RunResult> LoadDriver::Impl::Finish() {
  MutexLock lock(&mutex_);
  if (stop_) return absl::CancelledError("stopped before the run was over");
  if (overloaded_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the server does not keep up: ", peak_outstanding_,
        " streams were live at once, more than max_outstanding = ", options_.max_outstanding));
  }
  if (window_close_ns_ <= window_begin_ns_) {
    return absl::DeadlineExceededError(
        absl::StrCat("all ", num_started_, " requests had ended when the warm-up of ",
                     options_.warmup_seconds, " s was over: lower --warmup, or send more"));
  }
  RunResult result;
  result.tally = recorder_->Collect();
  result.window_seconds = static_cast<double>(window_close_ns_ - window_begin_ns_) / 1e9;
  result.event_lag = event_lag_.Collect();
  result.peak_outstanding = peak_outstanding_;
  if (IsTraceReplay(options_)) {
    result.unsent_trace_lines = std::ssize(workload_.trace()) - num_started_;
  }
  if (absl::Status s = connections_.CheckRoom(peak_outstanding_); !s.ok()) return s;
  if (absl::Status s = CheckLags(result, options_.max_lag_ms); !s.ok()) return s;
  return result;
}

void LoadDriver::Impl::RequestStop() {
  MutexLock lock(&mutex_);
  stop_ = true;
  changed_.NotifyOne();
}

}  // namespace parallax::loadgen
