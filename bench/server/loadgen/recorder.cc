#include "bench/server/loadgen/recorder.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <thread>

namespace parallax::loadgen {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
// A run longer than this keeps its last seconds in the last entry.
constexpr int64_t kMaxTimelineSeconds = 24 * 3600;

double Milliseconds(double ns) { return ns / 1e6; }

bool IsRefusal(grpc::StatusCode code) {
  return code == grpc::StatusCode::RESOURCE_EXHAUSTED || code == grpc::StatusCode::UNAVAILABLE;
}

void MergeTally(const Tally& from, Tally* to) {
  to->completed += from.completed;
  to->cancelled += from.cancelled;
  to->refused += from.refused;
  to->failed += from.failed;
  to->unfinished += from.unfinished;
  to->good += from.good;
  for (const auto& [code, count] : from.by_code) to->by_code[code] += count;
  to->first_message.insert(from.first_message.begin(), from.first_message.end());
  to->prompt_tokens += from.prompt_tokens;
  to->cached_tokens += from.cached_tokens;
  to->output_tokens += from.output_tokens;
  to->chunks += from.chunks;
  to->ttft.Merge(from.ttft);
  to->transport.Merge(from.transport);
  to->tpot.Merge(from.tpot);
  to->itl.Merge(from.itl);
  to->e2e.Merge(from.e2e);
  to->send_lag.Merge(from.send_lag);
  to->write_lag.Merge(from.write_lag);
  to->all_requests += from.all_requests;
  to->all_prompt_tokens += from.all_prompt_tokens;
  to->all_output_tokens += from.all_output_tokens;
  to->all_first_tokens += from.all_first_tokens;
  to->all_ttft_ns += from.all_ttft_ns;
  to->window_completed += from.window_completed;
  to->window_prompt_tokens += from.window_prompt_tokens;
  to->window_tokens += from.window_tokens;
  to->timeline.resize(std::max(to->timeline.size(), from.timeline.size()));
  for (size_t i = 0; i < from.timeline.size(); ++i) {
    to->timeline[i].started += from.timeline[i].started;
    to->timeline[i].completed += from.timeline[i].completed;
    to->timeline[i].tokens += from.timeline[i].tokens;
  }
}

}  // namespace

double TpotNs(const StreamRecord& record) {
  if (record.tokens < 2) return 0.0;
  return static_cast<double>(record.last_token_ns - record.first_token_ns) / (record.tokens - 1);
}

Recorder::Recorder(const Slo& slo, int64_t start_ns, int64_t window_begin_ns, int64_t window_end_ns)
    : slo_(slo),
      start_ns_(start_ns),
      window_begin_ns_(window_begin_ns),
      window_end_ns_(window_end_ns) {}

Recorder::Shard& Recorder::MyShard() {
  return shards_[std::hash<std::thread::id>()(std::this_thread::get_id()) % kShards];
}

TimelineSecond* Recorder::SecondOf(Tally* tally, int64_t now_ns) const {
  const int64_t second =
      std::clamp<int64_t>((now_ns - start_ns_) / kSecondNs, 0, kMaxTimelineSeconds - 1);
  if (static_cast<size_t>(second) >= tally->timeline.size()) tally->timeline.resize(second + 1);
  return &tally->timeline[second];
}

void Recorder::RecordStart(int64_t now_ns, int64_t intended_ns) {
  Shard& shard = MyShard();
  MutexLock lock(&shard.mutex);
  ++SecondOf(&shard.tally, now_ns)->started;
  if (InWindow(intended_ns)) shard.tally.send_lag.Record(now_ns - intended_ns);
}

void Recorder::RecordWrite(int64_t intended_ns, int64_t lag_ns) {
  if (!InWindow(intended_ns)) return;
  Shard& shard = MyShard();
  MutexLock lock(&shard.mutex);
  shard.tally.write_lag.Record(lag_ns);
}

void Recorder::RecordChunk(int64_t now_ns, int64_t intended_ns, int64_t gap_ns, int32_t tokens) {
  Shard& shard = MyShard();
  MutexLock lock(&shard.mutex);
  SecondOf(&shard.tally, now_ns)->tokens += tokens;
  if (InWindow(now_ns)) shard.tally.window_tokens += tokens;
  if (gap_ns >= 0 && InWindow(intended_ns)) shard.tally.itl.Record(gap_ns);
}

void Recorder::RecordDone(const StreamRecord& record) {
  Shard& shard = MyShard();
  MutexLock lock(&shard.mutex);
  Tally& tally = shard.tally;
  ++SecondOf(&tally, record.done_ns)->completed;
  ++tally.all_requests;
  tally.all_prompt_tokens += record.prompt_tokens;
  tally.all_output_tokens += record.tokens;
  if (record.first_token_ns > 0) {
    ++tally.all_first_tokens;
    tally.all_ttft_ns += static_cast<double>(record.first_token_ns - record.sent_ns);
  }
  if (record.code == grpc::StatusCode::OK && InWindow(record.done_ns)) ++tally.window_completed;
  if (InWindow(record.first_token_ns)) tally.window_prompt_tokens += record.asked_prompt_tokens;
  if (InWindow(record.intended_ns)) CountOutcome(record, &tally);
}

void Recorder::CountOutcome(const StreamRecord& record, Tally* tally) const {
  ++tally->by_code[static_cast<int>(record.code)];
  tally->prompt_tokens += record.prompt_tokens;
  tally->cached_tokens += record.cached_tokens;
  tally->output_tokens += record.tokens;
  tally->chunks += record.chunks;
  if (record.first_token_ns > 0) {
    tally->ttft.Record(record.first_token_ns - record.intended_ns);
    if (record.server_ttft_ns >= 0) {
      tally->transport.Record(record.first_token_ns - record.sent_ns - record.server_ttft_ns);
    }
  }
  if (record.unfinished) {
    ++tally->unfinished;
  } else if (record.cancelled_by_us && record.code != grpc::StatusCode::OK) {
    ++tally->cancelled;
  } else if (record.code != grpc::StatusCode::OK) {
    ++(IsRefusal(record.code) ? tally->refused : tally->failed);
    tally->first_message.emplace(static_cast<int>(record.code), record.message);
  } else {
    ++tally->completed;
    if (record.tokens >= 2) tally->tpot.Record(static_cast<int64_t>(TpotNs(record)));
    tally->e2e.Record(record.done_ns - record.intended_ns);
    if (MeetsSlo(record)) ++tally->good;
  }
}

bool Recorder::MeetsSlo(const StreamRecord& record) const {
  if (record.first_token_ns == 0) return false;
  const double ttft = Milliseconds(static_cast<double>(record.first_token_ns - record.intended_ns));
  const double e2e = Milliseconds(static_cast<double>(record.done_ns - record.intended_ns));
  return (slo_.ttft_ms <= 0.0 || ttft <= slo_.ttft_ms) &&
         (slo_.tpot_ms <= 0.0 || Milliseconds(TpotNs(record)) <= slo_.tpot_ms) &&
         (slo_.e2e_ms <= 0.0 || e2e <= slo_.e2e_ms);
}

int64_t Recorder::TokensOfSecond(int64_t second) const {
  int64_t tokens = 0;
  for (const Shard& shard : shards_) {
    MutexLock lock(&shard.mutex);
    const std::vector<TimelineSecond>& timeline = shard.tally.timeline;
    if (second >= 0 && second < std::ssize(timeline)) tokens += timeline[second].tokens;
  }
  return tokens;
}

Tally Recorder::Collect() const {
  Tally total;
  for (const Shard& shard : shards_) {
    MutexLock lock(&shard.mutex);
    MergeTally(shard.tally, &total);
  }
  return total;
}

}  // namespace parallax::loadgen
