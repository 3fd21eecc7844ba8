// What requests cost in memory while they wait, are refused and are dropped: a prompt's worth
// each, whatever they ask for.
//
// Counts the large blocks of the whole process, so this test is a program of its own.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/engine/engine_fixture.h"

namespace {

// Far below a prompt of these tests, far above anything else.
constexpr size_t kLargeBlock = 100'000;

std::atomic<int64_t> large_bytes = 0;
std::atomic<int64_t> peak_bytes = 0;

void* CountedAllocation(size_t size) {
  void* const block = std::malloc(size);
  if (block == nullptr) throw std::bad_alloc();
  if (const size_t usable = malloc_usable_size(block); usable >= kLargeBlock) {
    const int64_t now = large_bytes += static_cast<int64_t>(usable);
    int64_t peak = peak_bytes;
    while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
    }
  }
  return block;
}

void CountedRelease(void* block) {
  const size_t usable = malloc_usable_size(block);
  if (usable >= kLargeBlock) large_bytes -= static_cast<int64_t>(usable);
  std::free(block);
}

}  // namespace

void* operator new(size_t size) { return CountedAllocation(size); }
void operator delete(void* block) noexcept { CountedRelease(block); }
void operator delete(void* block, size_t) noexcept { CountedRelease(block); }

namespace parallax {
namespace {

constexpr int32_t kPromptTokens = 100'000;
constexpr int64_t kPromptBytes = int64_t{kPromptTokens} * sizeof(int32_t);
constexpr int kRequests = 20;

class EngineMemoryTest : public EngineFixture {
 protected:
  EngineMemoryTest() {
    limits.max_context_tokens = kPromptTokens + 100;
    limits.num_pages = 2 * kPromptTokens / kPageTokens;
    options.max_num_seqs = 8;
    options.max_queued_requests = kRequests;
  }

  // One request that keeps every slot busy, so that the others wait.
  std::shared_ptr<RecordingSink> StartBusy() {
    Start();
    model->Hold();
    Request request = MakeRequest();
    request.sampling.n = 8;
    const auto sink = Submit(std::move(request));
    model->AwaitHeld();
    return sink;
  }

  Request LongRequest() {
    Request request = MakeRequest(8, std::vector<int32_t>(kPromptTokens, 20));
    request.sampling.n = 8;
    request.sampling.prompt_logprobs = 20;
    return request;
  }

  // In prompts, from here on: what is held at most, and at the end.
  void StartCounting() { peak_bytes = first_bytes_ = large_bytes.load(); }
  double PeakPrompts() const { return Prompts(peak_bytes - first_bytes_); }
  double HeldPrompts() const { return Prompts(large_bytes - first_bytes_); }

 private:
  static double Prompts(int64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(kPromptBytes);
  }

  int64_t first_bytes_ = 0;
};

TEST_F(EngineMemoryTest, AQueuedRequestHoldsItsPromptOnce) {
  StartBusy();
  StartCounting();
  for (int i = 0; i < kRequests; ++i) Submit(LongRequest());
  model->Allow(1);
  model->AwaitHeld();  // the engine thread has taken them in
  EXPECT_LT(HeldPrompts(), kRequests + 1);
}

TEST_F(EngineMemoryTest, DroppingTheQueueTakesNoMemory) {
  const auto busy = StartBusy();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < kRequests; ++i) sinks.push_back(Submit(LongRequest()));
  model->Allow(1);
  model->AwaitHeld();
  StartCounting();
  engine->AbortAll(absl::UnavailableError("second SIGTERM"));
  model->Release();
  for (const auto& sink : sinks) sink->Await();
  busy->Await();
  EXPECT_TRUE(engine->AwaitDrained(absl::InfiniteFuture()));
  EXPECT_LT(PeakPrompts(), 1);
  EXPECT_LT(HeldPrompts(), 1 - kRequests);
}

TEST_F(EngineMemoryTest, ARefusalBuildsNothing) {
  words = {"word"};
  StartBusy();
  for (int i = 0; i < kRequests; ++i) Submit(MakeRequest());
  Request request = LongRequest();
  request.prompt.assign(kPromptTokens, 2);
  request.sampling.echo = true;
  StartCounting();
  const absl::Status status = engine->Submit(std::move(request), std::make_shared<RecordingSink>());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LT(PeakPrompts(), 0.5);
}

}  // namespace
}  // namespace parallax
