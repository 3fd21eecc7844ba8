#include "bench/server/loadgen/recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace parallax::loadgen {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

constexpr int64_t kMs = 1'000'000;
// The run begins at one second of the clock; its window is [3 s, 5 s).
constexpr int64_t kStart = 1000 * kMs;
constexpr int64_t kWindowBegin = 3000 * kMs;
constexpr int64_t kWindowEnd = 5000 * kMs;

// Due at `intended`, first token 100 ms later, then one every 10 ms, done 5 ms after the last.
StreamRecord Completed(int64_t intended, int32_t tokens) {
  StreamRecord record;
  record.intended_ns = intended;
  record.sent_ns = intended + 2 * kMs;
  record.first_token_ns = intended + 100 * kMs;
  record.last_token_ns = record.first_token_ns + (tokens - 1) * 10 * kMs;
  record.done_ns = record.last_token_ns + 5 * kMs;
  record.server_ttft_ns = 90 * kMs;
  record.tokens = record.chunks = tokens;
  record.asked_prompt_tokens = record.prompt_tokens = 7;
  record.cached_tokens = 4;
  return record;
}

StreamRecord Ended(int64_t intended, grpc::StatusCode code, const std::string& message) {
  StreamRecord record;
  record.intended_ns = record.sent_ns = intended;
  record.done_ns = intended + 1 * kMs;
  record.code = code;
  record.message = message;
  return record;
}

class RecorderTest : public ::testing::Test {
 protected:
  Tally Record(const std::vector<StreamRecord>& records, const Slo& slo = {}) {
    Recorder recorder(slo, kStart, kWindowBegin, kWindowEnd);
    for (const StreamRecord& record : records) recorder.RecordDone(record);
    return recorder.Collect();
  }

  int64_t Good(const StreamRecord& record, const Slo& slo) { return Record({record}, slo).good; }
};

// Histograms are right to 0.1 %.
void ExpectMs(const Histogram& histogram, int64_t count, double ms) {
  EXPECT_EQ(histogram.count(), count);
  EXPECT_NEAR(histogram.mean_ns() / kMs, ms, 1e-3 * ms);
}

TEST_F(RecorderTest, LatenciesCountFromTheIntendedStart) {
  const Tally tally = Record({Completed(kWindowBegin, 11)});
  EXPECT_EQ(tally.completed, 1);
  ExpectMs(tally.ttft, 1, 100);
  ExpectMs(tally.tpot, 1, 10);
  ExpectMs(tally.e2e, 1, 205);
  // Sent 2 ms late, 90 ms in the engine: 8 ms are left.
  ExpectMs(tally.transport, 1, 8);
}

TEST_F(RecorderTest, TpotNeedsTwoTokens) {
  const Tally tally = Record({Completed(kWindowBegin, 1)});
  EXPECT_EQ(tally.tpot.count(), 0);
  EXPECT_EQ(tally.e2e.count(), 1);
  EXPECT_EQ(TpotNs(Completed(kWindowBegin, 1)), 0.0);
  EXPECT_EQ(TpotNs(Completed(kWindowBegin, 3)), 10.0 * kMs);
}

TEST_F(RecorderTest, ItlIsOfTheGapsOfRequestsThatWereDueInTheWindow) {
  Recorder recorder({}, kStart, kWindowBegin, kWindowEnd);
  recorder.RecordChunk(kWindowBegin + 1, kWindowBegin, -1, 1);  // the first: no gap
  recorder.RecordChunk(kWindowBegin + 2, kWindowBegin, 20 * kMs, 1);
  recorder.RecordChunk(kWindowEnd + 2, kWindowBegin, 40 * kMs, 5);    // later, but due inside
  recorder.RecordChunk(kWindowBegin + 3, kWindowBegin - 1, kMs, 30);  // due before
  const Tally tally = recorder.Collect();
  ExpectMs(tally.itl, 2, 30);
  EXPECT_EQ(tally.window_tokens, 32) << "what arrived inside, whenever it was due";
}

TEST_F(RecorderTest, LagsAreOfRequestsThatWereDueInTheWindow) {
  Recorder recorder({}, kStart, kWindowBegin, kWindowEnd);
  recorder.RecordStart(kWindowBegin + 500 * kMs, kWindowBegin - 1);
  recorder.RecordStart(kWindowBegin + 7 * kMs, kWindowBegin);
  recorder.RecordStart(kWindowEnd + 7 * kMs, kWindowEnd - 1);  // sent after it, but due inside
  recorder.RecordStart(kWindowEnd + 500 * kMs, kWindowEnd);
  recorder.RecordWrite(kWindowBegin - 1, 500 * kMs);
  recorder.RecordWrite(kWindowBegin, 3 * kMs);
  recorder.RecordWrite(kWindowEnd - 1, 3 * kMs);
  recorder.RecordWrite(kWindowEnd, 500 * kMs);
  ExpectMs(recorder.Collect().send_lag, 2, 7);
  ExpectMs(recorder.Collect().write_lag, 2, 3);
}

TEST_F(RecorderTest, EveryPartOfTheSloMustBeMet) {
  const StreamRecord record = Completed(kWindowBegin, 11);  // 100, 10 and 205 ms
  EXPECT_EQ(Good(record, {}), 1);
  EXPECT_EQ(Good(record, {.ttft_ms = 100, .tpot_ms = 10, .e2e_ms = 205}), 1);
  EXPECT_EQ(Good(record, {.ttft_ms = 99}), 0);
  EXPECT_EQ(Good(record, {.tpot_ms = 9.9}), 0);
  EXPECT_EQ(Good(record, {.e2e_ms = 204}), 0);
  EXPECT_EQ(Good(record, {.ttft_ms = 100, .tpot_ms = 10, .e2e_ms = 204}), 0);
}

TEST_F(RecorderTest, OnlyCompletedRequestsAreGood) {
  StreamRecord failed = Completed(kWindowBegin, 11);
  failed.code = grpc::StatusCode::INTERNAL;
  StreamRecord cut_off = Completed(kWindowBegin, 11);
  cut_off.unfinished = true;
  StreamRecord without_tokens = Ended(kWindowBegin, grpc::StatusCode::OK, "");
  const Slo slo = {.ttft_ms = 1000, .tpot_ms = 1000, .e2e_ms = 1000};
  EXPECT_EQ(Record({failed, cut_off, without_tokens}, slo).good, 0);
}

TEST_F(RecorderTest, EveryRequestHasOneOutcome) {
  StreamRecord cancelled = Ended(kWindowBegin, grpc::StatusCode::CANCELLED, "Cancelled");
  cancelled.cancelled_by_us = true;
  StreamRecord cancelled_too_late = Completed(kWindowBegin, 3);
  cancelled_too_late.cancelled_by_us = true;
  StreamRecord cut_off = Ended(kWindowBegin, grpc::StatusCode::CANCELLED, "Cancelled");
  cut_off.unfinished = cut_off.cancelled_by_us = true;
  const Tally tally = Record({
      cancelled,
      cancelled_too_late,
      cut_off,
      Ended(kWindowBegin, grpc::StatusCode::CANCELLED, "by the server"),
      Ended(kWindowBegin, grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full"),
      Ended(kWindowBegin, grpc::StatusCode::RESOURCE_EXHAUSTED, "queue still full"),
      Ended(kWindowBegin, grpc::StatusCode::UNAVAILABLE, "draining"),
      Ended(kWindowBegin, grpc::StatusCode::INTERNAL, "a bug"),
  });
  EXPECT_EQ(tally.cancelled, 1);
  EXPECT_EQ(tally.completed, 1);
  EXPECT_EQ(tally.unfinished, 1);
  EXPECT_EQ(tally.refused, 3);
  EXPECT_EQ(tally.failed, 2);
  EXPECT_EQ(tally.all_requests, 8);
  EXPECT_THAT(tally.by_code,
              ElementsAre(Pair(0, 1), Pair(1, 3), Pair(8, 2), Pair(13, 1), Pair(14, 1)));
  EXPECT_THAT(tally.first_message, ElementsAre(Pair(1, "by the server"), Pair(8, "queue full"),
                                               Pair(13, "a bug"), Pair(14, "draining")));
  EXPECT_EQ(tally.e2e.count(), 1) << "of completed requests only";
}

TEST_F(RecorderTest, OutcomesAreOfRequestsThatWereDueInTheWindow) {
  const Tally tally = Record({Completed(kWindowBegin - 1, 5), Completed(kWindowBegin, 5),
                              Completed(kWindowEnd - 1, 5), Completed(kWindowEnd, 5)});
  EXPECT_EQ(tally.completed, 2);
  EXPECT_EQ(tally.ttft.count(), 2);
  EXPECT_EQ(tally.output_tokens, 10);
  EXPECT_EQ(tally.prompt_tokens, 14);
  EXPECT_EQ(tally.cached_tokens, 8);
  EXPECT_EQ(tally.chunks, 10);
  EXPECT_EQ(tally.all_requests, 4);
  EXPECT_EQ(tally.all_output_tokens, 20);
  EXPECT_EQ(tally.all_prompt_tokens, 28);
}

TEST_F(RecorderTest, ThroughputIsOfWhatHappenedInTheWindow) {
  // 145 ms from due to done, of which 100 to the first token.
  StreamRecord answered_late = Completed(kWindowEnd - 50 * kMs, 5);
  answered_late.asked_prompt_tokens = 1000;
  const Tally tally = Record({Completed(kWindowBegin - 200 * kMs, 5),  // done before it
                              Completed(kWindowBegin - 120 * kMs, 5),  // done inside
                              Completed(kWindowBegin - 50 * kMs, 5),   // all answers inside
                              answered_late});
  EXPECT_EQ(tally.window_completed, 2);
  EXPECT_EQ(tally.window_prompt_tokens, 7);
}

TEST_F(RecorderTest, TheTimelineCountsSecondsFromTheStart) {
  Recorder recorder({}, kStart, kWindowBegin, kWindowEnd);
  recorder.RecordStart(kStart, kStart);
  recorder.RecordStart(kStart + 999 * kMs, kStart);
  recorder.RecordStart(kStart + 2000 * kMs, kStart);
  recorder.RecordChunk(kStart + 1000 * kMs, kStart, -1, 3);
  StreamRecord record = Completed(kStart, 1);
  record.done_ns = kStart + 2100 * kMs;
  recorder.RecordDone(record);
  const Tally tally = recorder.Collect();
  ASSERT_EQ(tally.timeline.size(), 3u);
  EXPECT_EQ(tally.timeline[0].started, 2);
  EXPECT_EQ(tally.timeline[1].tokens, 3);
  EXPECT_EQ(tally.timeline[2].started, 1);
  EXPECT_EQ(tally.timeline[2].completed, 1);
}

TEST_F(RecorderTest, ThreadsAreAddedUp) {
  Recorder recorder({}, kStart, kWindowBegin, kWindowEnd);
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&recorder] {
      for (int j = 0; j < 100; ++j) recorder.RecordDone(Completed(kWindowBegin, 2));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Tally tally = recorder.Collect();
  EXPECT_EQ(tally.completed, 1600);
  ExpectMs(tally.ttft, 1600, 100);
}

}  // namespace
}  // namespace parallax::loadgen
