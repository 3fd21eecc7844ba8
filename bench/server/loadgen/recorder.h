// Recorder: what the streams of a run saw, accumulated as it happens.
//
// Streams end on gRPC's threads, thousands a second. Each writes to one of a few shards
// under that shard's lock; Collect adds the shards up when the run is over.
//
// Thread safety: all from any thread, but Collect when no stream is live.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_RECORDER_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_RECORDER_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bench/server/loadgen/histogram.h"
#include "engine/base/mutex.h"
#include "grpcpp/support/status.h"

namespace parallax::loadgen {

/// Service-level objective of one request.
struct Slo {
  double ttft_ms = 0.0;  // 0 = not asked for
  double tpot_ms = 0.0;
  double e2e_ms = 0.0;
  bool any() const { return ttft_ms > 0.0 || tpot_ms > 0.0 || e2e_ms > 0.0; }
};

/// One finished call. Times are nanoseconds of the steady clock.
struct StreamRecord {
  int64_t intended_ns = 0;     // when it should have started; latencies count from here
  int64_t sent_ns = 0;         // when it did
  int64_t first_token_ns = 0;  // 0 = none came
  int64_t last_token_ns = 0;
  int64_t done_ns = 0;
  int64_t server_ttft_ns = -1;  // of that, the server's engine by its own clock; -1 = not said
  int32_t tokens = 0;
  int32_t chunks = 0;
  int32_t asked_prompt_tokens = 0;
  int32_t prompt_tokens = 0;  // as the server counted
  int32_t cached_tokens = 0;
  bool cancelled_by_us = false;  // on purpose: part of the workload
  bool unfinished = false;       // cut off at the end of the run
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
};

/// Per second of the run, for plots.
struct TimelineSecond {
  int64_t started = 0;
  int64_t completed = 0;
  int64_t tokens = 0;
};

struct Tally {
  // Of requests whose intended start lies in the measurement window.
  int64_t completed = 0;
  int64_t cancelled = 0;
  int64_t refused = 0;  // RESOURCE_EXHAUSTED, UNAVAILABLE
  int64_t failed = 0;   // any other code
  int64_t unfinished = 0;
  int64_t good = 0;  // completed within the SLO
  std::map<int, int64_t> by_code;
  std::map<int, std::string> first_message;  // by code, of those that failed or were refused
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  int64_t chunks = 0;
  Histogram ttft;
  Histogram transport;  // sent to first token, less the server's own share: gRPC both ways
  Histogram tpot;
  Histogram itl;  // between two chunks of a stream, which carry one token or more
  Histogram e2e;
  Histogram send_lag;   // from due to sent
  Histogram write_lag;  // the client's own part of `transport`: from sent to written
  // Of the whole run, warm-up included: for comparison with the server's counters.
  int64_t all_requests = 0;
  int64_t all_prompt_tokens = 0;
  int64_t all_output_tokens = 0;
  int64_t all_first_tokens = 0;  // requests that had a token
  double all_ttft_ns = 0.0;      // their sum, from when they were sent
  // Of what happened inside the window, whenever it was asked for: throughput.
  int64_t window_completed = 0;
  int64_t window_prompt_tokens = 0;  // of the prompts whose first token arrived
  int64_t window_tokens = 0;
  std::vector<TimelineSecond> timeline;
};

class Recorder {
 public:
  Recorder(const Slo& slo, int64_t start_ns, int64_t window_begin_ns, int64_t window_end_ns);

  void RecordStart(int64_t now_ns, int64_t intended_ns);
  /// `lag_ns` is how long the request took from its start into its connection.
  void RecordWrite(int64_t intended_ns, int64_t lag_ns);
  /// `gap_ns` is the time since the stream's previous chunk; negative for its first.
  void RecordChunk(int64_t now_ns, int64_t intended_ns, int64_t gap_ns, int32_t tokens);
  void RecordDone(const StreamRecord& record);

  /// Whether a request that is due then is measured.
  bool InWindow(int64_t time_ns) const {
    return time_ns >= window_begin_ns_ && time_ns < window_end_ns_;
  }

  /// Of one second of the run, counted from 0.
  int64_t TokensOfSecond(int64_t second) const;

  Tally Collect() const;

 private:
  static constexpr int kShards = 8;
  struct alignas(64) Shard {
    mutable Mutex mutex;
    Tally tally PARALLAX_GUARDED_BY(mutex);
  };

  Shard& MyShard();
  TimelineSecond* SecondOf(Tally* tally, int64_t now_ns) const;
  void CountOutcome(const StreamRecord& record, Tally* tally) const;
  bool MeetsSlo(const StreamRecord& record) const;

  const Slo slo_;
  const int64_t start_ns_;
  const int64_t window_begin_ns_;
  const int64_t window_end_ns_;
  std::array<Shard, kShards> shards_;
};

/// Time per output token after the first; 0 with fewer than two tokens.
double TpotNs(const StreamRecord& record);

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_RECORDER_H_
