// What scheduling costs a token: Schedule, BuildForwardBatch, AppendToken, CompleteStep and
// the coming and going of requests, with a model that takes no time and returns one token.
//
// Closed loop: a finished request is replaced at once, so `batch` sequences always run.
// Each request is 128 tokens in, 256 out; prompts differ, so the prefix cache publishes and
// evicts all the time. items_per_second counts generated tokens; `rows` are prompt rows too.
//
//   scheduler_bench --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/runner/batch_builder.h"
#include "engine/scheduler/scheduler.h"

namespace parallax {
namespace {

constexpr int32_t kPromptTokens = 128;
constexpr int32_t kOutputTokens = 256;

class ClosedLoop {
 public:
  ClosedLoop(int32_t batch, int32_t steps_in_flight, bool prefix_cache)
      : scheduler_(Options(batch, steps_in_flight, prefix_cache)),
        steps_in_flight_(static_cast<uint64_t>(steps_in_flight)) {
    for (int32_t i = 0; i < batch; ++i) {
      // Staggered, so that requests do not all end in the same step.
      AddRequest(kOutputTokens - i % kOutputTokens);
    }
  }

  void Step() {
    while (launched_ - collected_ < steps_in_flight_) {
      StepSlot& step = steps_[launched_ % steps_.size()];
      if (!scheduler_.Schedule(absl::UnixEpoch(), &step.scheduled)) {
        break;
      }
      BuildForwardBatch(step.scheduled, &step.batch);
      rows_ += step.batch.num_tokens();
      ++launched_;
    }
    Collect(steps_[collected_++ % steps_.size()].scheduled);
  }

  int64_t tokens() const { return tokens_; }
  int64_t rows() const { return rows_; }

 private:
  struct StepSlot {
    ScheduledBatch scheduled;
    ForwardBatch batch;
  };

  static SchedulerOptions Options(int32_t batch, int32_t steps_in_flight, bool prefix_cache) {
    SchedulerOptions options;
    options.num_pages = batch * 8;
    options.max_num_seqs = batch;
    options.max_num_batched_tokens = 2048;
    options.max_context_tokens = 4096;
    options.max_steps_in_flight = steps_in_flight;
    options.enable_prefix_cache = prefix_cache;
    return options;
  }

  void AddRequest(int32_t max_tokens) {
    Request request;
    request.id = "request";
    request.prompt.resize(kPromptTokens);
    for (int32_t& token : request.prompt) {
      token = static_cast<int32_t>((random_ = random_ * 6364136223846793005u + 1) >> 48);
    }
    request.sampling.max_tokens = max_tokens;
    scheduler_.Add(std::move(request), ++arrivals_);
  }

  void Collect(const ScheduledBatch& scheduled) {
    ended_.clear();
    for (const ScheduledSample& sample : scheduled.samples) {
      Sequence* sequence = sample.sequence;
      scheduler_.AppendToken(sequence, 7);
      if (sequence->num_generated() == sequence->group->request.sampling.max_tokens) {
        scheduler_.Finish(sequence);
        ended_.push_back(sequence->group);
      }
    }
    tokens_ += static_cast<int64_t>(scheduled.samples.size());
    scheduler_.CompleteStep(scheduled);
    for (SequenceGroup* group : ended_) {
      scheduler_.Remove(group);
      AddRequest(kOutputTokens);
    }
  }

  Scheduler scheduler_;
  const uint64_t steps_in_flight_;
  std::array<StepSlot, 2> steps_;
  std::vector<SequenceGroup*> ended_;
  uint64_t launched_ = 0;
  uint64_t collected_ = 0;
  uint64_t arrivals_ = 0;
  uint64_t random_ = 1;
  int64_t tokens_ = 0;
  int64_t rows_ = 0;
};

void BM_Scheduler(benchmark::State& state) {
  ClosedLoop loop(static_cast<int32_t>(state.range(0)), static_cast<int32_t>(state.range(1)),
                  state.range(2) != 0);
  for (int i = 0; i < 2 * kOutputTokens; ++i) {
    loop.Step();  // warm-up: every buffer has its size
  }
  const int64_t tokens = loop.tokens();
  const int64_t rows = loop.rows();
  for (auto _ : state) {
    loop.Step();
  }
  state.SetItemsProcessed(loop.tokens() - tokens);
  state.counters["rows"] =
      benchmark::Counter(static_cast<double>(loop.rows() - rows), benchmark::Counter::kIsRate);
  state.counters["s_per_token"] =
      benchmark::Counter(static_cast<double>(loop.tokens() - tokens),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

BENCHMARK(BM_Scheduler)
    ->ArgNames({"batch", "steps_in_flight", "prefix_cache"})
    ->ArgsProduct({{1, 16, 64, 256}, {1, 2}, {0, 1}});

}  // namespace
}  // namespace parallax

BENCHMARK_MAIN();
