// engine_bench: tokens per second that the engine can schedule, over a model that costs
// nothing.
//
// Closed loop: `concurrency` requests are live at all times; one that ends is replaced by the
// main thread. All that a token costs is on the engine thread, thus on one core:
// intake, scheduling, batch building, the null model, output processing and the sink. The
// main thread wakes once a request to make and submit the next; `taskset -c 0` puts
// it on the same core.
//
//   engine_bench [seconds] [concurrency] [prompt tokens] [output tokens]
//
// Prints a line a variant: token ids only, text, text with stop strings and log-probabilities.
// CPU seconds are those of the whole process, submissions included: on a shared machine they
// say more than the clock on the wall.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "engine/runner/null_model_runner.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax {
namespace {

constexpr int32_t kVocab = 32000;

struct Load {
  double seconds = 3;
  int32_t concurrency = 256;
  int32_t prompt_tokens = 128;
  int32_t output_tokens = 256;
};

struct Variant {
  const char* name;
  bool text;
  bool stop_strings;
  bool logprobs;
  int32_t steps_in_flight;
};

/// Words of five letters and a space.
class BenchTokenizer final : public Tokenizer {
 public:
  BenchTokenizer() : Tokenizer(Table(), LeadingSpace::kKeep, std::nullopt, std::nullopt) {}
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view, bool) const override {
    return absl::UnimplementedError("prompts are token ids");
  }

 private:
  static TokenTable Table() {
    std::vector<TokenEntry> entries(kVocab);
    for (int32_t id = 0; id < kVocab; ++id) {
      std::string word = " ";
      for (int32_t i = 0, rest = id; i < 5; ++i, rest /= 26) {
        word += static_cast<char>('a' + rest % 26);
      }
      entries[id] = {.bytes = std::move(word), .present = true};
    }
    return TokenTable(entries);
  }
};

/// Counts the requests that wait for their successor.
class Refill {
 public:
  void NoteDone() {
    MutexLock lock(&mutex_);
    ++done_;
    changed_.NotifyOne();
  }
  int32_t Take() {
    MutexLock lock(&mutex_);
    while (done_ == 0) changed_.Wait(&mutex_);
    return std::exchange(done_, 0);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int32_t done_ PARALLAX_GUARDED_BY(mutex_) = 0;
};

class CountingSink final : public TokenSink {
 public:
  explicit CountingSink(Refill* refill) : refill_(refill) {}
  void OnStart(RequestStart) override {}
  void OnDelta(OutputDelta delta) override { bytes_ += delta.text.size(); }
  void OnDone(absl::Status) override { refill_->NoteDone(); }

 private:
  Refill* const refill_;
  size_t bytes_ = 0;
};

Request MakeRequest(const Variant& variant, const Load& load, uint64_t number) {
  Request request;
  request.id = absl::StrCat("bench-", number);
  request.prompt.resize(load.prompt_tokens);
  for (int32_t i = 0; i < load.prompt_tokens; ++i) {
    request.prompt[i] = static_cast<int32_t>((number * 7919 + i) % kVocab);
  }
  request.sampling.seed = number;
  request.sampling.max_tokens = load.output_tokens;
  if (variant.stop_strings) request.sampling.stop_strings = {"\n\n", "###", " zzzzz zzzzz"};
  if (variant.logprobs) request.sampling.logprobs = 5;
  return request;
}

void Run(const Variant& variant, const Load& load) {
  NullModelRunnerOptions model;
  model.vocab_size = kVocab;
  model.max_num_seqs = load.concurrency;
  model.max_context_tokens = load.prompt_tokens + load.output_tokens;
  model.num_pages = load.concurrency * (model.max_context_tokens / kPageTokens + 2);
  model.max_steps_in_flight = variant.steps_in_flight;
  EngineOptions options;
  options.max_queued_requests = load.concurrency;
  const BenchTokenizer tokenizer;
  auto engine = *Engine::Create(options, *NullModelRunner::Create(model),
                                variant.text ? &tokenizer : nullptr, nullptr);
  Refill refill;
  uint64_t submitted = 0;
  const auto submit = [&](int32_t count) {
    for (int32_t i = 0; i < count; ++i, ++submitted) {
      const absl::Status status = engine->Submit(MakeRequest(variant, load, submitted),
                                                 std::make_shared<CountingSink>(&refill));
      if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    }
  };
  submit(load.concurrency);
  submit(refill.Take());  // warm: the first requests have ended
  const uint64_t tokens_before = engine->Stats().tokens_generated;
  const uint64_t steps_before = engine->Stats().steps;
  const absl::Time start = absl::Now();
  const std::clock_t cpu_start = std::clock();
  while (absl::Now() - start < absl::Seconds(load.seconds)) submit(refill.Take());
  const EngineStats stats = engine->Stats();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
  const auto tokens = static_cast<double>(stats.tokens_generated - tokens_before);
  std::printf("%-32s %9.0f %13.0f %13.0f %11.1f\n", variant.name, tokens / seconds,
              tokens / cpu_seconds, 1e9 * cpu_seconds / tokens,
              tokens / static_cast<double>(stats.steps - steps_before));
}

}  // namespace
}  // namespace parallax

int main(int argc, char** argv) {
  parallax::Load load;
  if (argc > 1) load.seconds = std::atof(argv[1]);
  if (argc > 2) load.concurrency = std::atoi(argv[2]);
  if (argc > 3) load.prompt_tokens = std::atoi(argv[3]);
  if (argc > 4) load.output_tokens = std::atoi(argv[4]);
  std::printf("%-32s %9s %13s %13s %11s\n", "variant", "tokens/s", "tokens/CPU s", "CPU ns/token",
              "tokens/step");
  const parallax::Variant variants[] = {
      {"ids", false, false, false, 1},
      {"ids, two steps in flight", false, false, false, 2},
      {"text", true, false, false, 1},
      {"text, stop strings", true, true, false, 1},
      {"text, stop strings, 5 logprobs", true, true, true, 1},
  };
  for (const parallax::Variant& variant : variants) parallax::Run(variant, load);
  return 0;
}
