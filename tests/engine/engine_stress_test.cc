// Many clients at once, cancelling at random: nothing leaks, every request ends exactly once,
// and the engine's counters agree with the clients' own tally.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>

#include "tests/engine/engine_fixture.h"

namespace parallax {
namespace {

/// What the clients saw.
struct Tally {
  std::atomic<int64_t> accepted{0};
  std::atomic<int64_t> refused{0};
  std::atomic<int64_t> tokens{0};
  std::atomic<int64_t> prompt_tokens{0};
  std::atomic<int64_t> violations{0};
  std::atomic<int64_t> wrong_tokens{0};
  std::atomic<int64_t> cancelled{0};
};

class EngineStressTest : public EngineFixture, public ::testing::WithParamInterface<int32_t> {
 protected:
  EngineStressTest() {
    limits.max_steps_in_flight = GetParam();
    limits.num_pages = 16;  // small: preemptions
    limits.max_context_tokens = 512;
    options.max_queued_requests = 32;
  }

  Request RandomRequest(std::mt19937_64* random, int client, int index) const {
    const auto below = [&](int32_t n) { return static_cast<int32_t>((*random)() % n); };
    Request request;
    request.id = absl::StrCat("client-", client, "-", index);
    request.principal = absl::StrCat("client-", client);
    request.prompt.assign(1 + below(200), FakeModel::kFirstToken + below(3));
    request.priority = below(3);
    request.sampling.seed = static_cast<uint64_t>(client) * 100000 + index;
    request.sampling.max_tokens = 1 + below(100);
    request.sampling.n = 1 + below(3);
    if (below(4) == 0) request.sampling.logprobs = 1;
    if (below(8) == 0) request.sampling.prompt_logprobs = 1;
    return request;
  }

  void Client(uint64_t seed, int client, int requests) {
    std::mt19937_64 random(seed + client);
    struct Sent {
      Request request;
      std::shared_ptr<RecordingSink> sink;
    };
    std::vector<Sent> sent;
    for (int i = 0; i < requests; ++i) {
      Request request = RandomRequest(&random, client, i);
      auto sink = std::make_shared<RecordingSink>(request.sampling.n);
      while (!engine->Submit(request, sink).ok()) {
        ++tally.refused;
        // The queue is full: let one of the client's own finish, then try again.
        if (!sent.empty()) sent[random() % sent.size()].sink->Await();
        std::this_thread::yield();
      }
      ++tally.accepted;
      tally.prompt_tokens += static_cast<int64_t>(request.prompt.size());
      sent.push_back({std::move(request), std::move(sink)});
      if (random() % 5 != 0) continue;
      const size_t recent = std::min<size_t>(sent.size(), 16);
      const Request& victim = sent[sent.size() - 1 - random() % recent].request;
      engine->Abort(victim.id, victim.principal, absl::CancelledError("changed my mind"));
    }
    for (const Sent& s : sent) Check(s.request, s.sink->Await());
  }

  void Check(const Request& request, const Recorded& got) {
    if (!got.violation.empty()) ++tally.violations;
    const bool cancelled = got.done->code() == absl::StatusCode::kCancelled;
    if (cancelled) ++tally.cancelled;
    if (!cancelled && !got.done->ok()) ++tally.violations;
    for (size_t c = 0; c < got.choices.size(); ++c) {
      const RecordedChoice& choice = got.choices[c];
      const auto count = static_cast<int32_t>(choice.token_ids.size());
      tally.tokens += count;
      if (choice.finish->completion_tokens != count) ++tally.violations;
      if (!cancelled && count != request.sampling.max_tokens) ++tally.violations;
      if (choice.token_ids != Expected(request.sampling.seed, static_cast<int32_t>(c), count)) {
        ++tally.wrong_tokens;
      }
    }
  }

  Tally tally;
};

TEST_P(EngineStressTest, NothingIsLostLeakedOrCountedTwice) {
  constexpr int kClients = 6;
  constexpr int kRequests = 150;
  const char* given = std::getenv("PARALLAX_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : 20240607;
  SCOPED_TRACE(absl::StrCat("PARALLAX_TEST_SEED=", seed));
  Start();
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([this, seed, i] { Client(seed, i, kRequests); });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(engine->AwaitDrained(absl::InfiniteFuture()));

  EXPECT_EQ(tally.violations, 0);
  EXPECT_EQ(tally.wrong_tokens, 0);
  EXPECT_GT(tally.cancelled, 0);
  EXPECT_GT(engine->Stats().preemptions, 0u);
  const EngineStats stats = engine->Stats();
  EXPECT_EQ(stats.requests_submitted, static_cast<uint64_t>(tally.accepted));
  EXPECT_EQ(stats.requests_finished, static_cast<uint64_t>(tally.accepted));
  EXPECT_EQ(stats.tokens_generated, static_cast<uint64_t>(tally.tokens));
  EXPECT_EQ(stats.prompt_tokens, static_cast<uint64_t>(tally.prompt_tokens));
  const ObserverCounts counts = observer.Counts();
  EXPECT_EQ(counts.finished, tally.accepted);
  EXPECT_EQ(counts.refused, tally.refused);
  EXPECT_EQ(counts.completion_tokens, tally.tokens);
  EXPECT_EQ(counts.tokens_generated, tally.tokens);
  EXPECT_EQ(counts.codes.at(absl::StatusCode::kCancelled), tally.cancelled);
  ExpectNothingHeld();
}

// Far more requests than the engine holds, 20 % of them cancelled at random moments.
TEST_P(EngineStressTest, OverloadLeavesNothingBehind) {
  constexpr int kRequests = 100 * (8 + 32);  // a hundred times what fits at once
  Start();
  std::mt19937_64 random(7);
  std::vector<std::pair<std::string, std::shared_ptr<RecordingSink>>> sent;
  int64_t refused = 0;
  for (int i = 0; i < kRequests; ++i) {
    Request request = RandomRequest(&random, 0, i);
    const std::string id = request.id;
    auto sink = std::make_shared<RecordingSink>(request.sampling.n);
    const absl::Status status = engine->Submit(std::move(request), sink);
    if (status.ok()) {
      sent.emplace_back(id, std::move(sink));
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
      // Nine of ten clients are refused, the tenth comes when there is room again.
      if (++refused % 9 == 0) sent[sent.size() - 1 - random() % 8].second->Await();
    }
    if (random() % 5 == 0 && sent.size() > 8) {
      const auto& [id, of_id] = sent[sent.size() - 1 - random() % 8];
      engine->Cancel(id, *of_id, absl::CancelledError("client gone"));
    }
  }
  for (const auto& [id, sink] : sent) EXPECT_EQ(sink->Await().violation, "");
  EXPECT_TRUE(engine->AwaitDrained(absl::InfiniteFuture()));
  EXPECT_GT(refused, 0);
  EXPECT_GT(observer.Counts().codes[absl::StatusCode::kCancelled], 10);
  EXPECT_EQ(observer.Counts().refused, refused);
  EXPECT_EQ(observer.Counts().finished, static_cast<int64_t>(sent.size()));
  ExpectNothingHeld();
}

INSTANTIATE_TEST_SUITE_P(StepsInFlight, EngineStressTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace parallax
