#include "engine/engine.h"

#include <algorithm>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/steady_time.h"
#include "engine/base/thread_name.h"
#include "engine/engine_loop.h"
#include "engine/inbox.h"
#include "engine/live_request.h"
#include "engine/request_validation.h"
#include "engine/scheduler/scheduler.h"
#include "engine/stats_board.h"

namespace parallax {
namespace {

// The option's value, where 0 stands for the backend's limit.
absl::StatusOr<int32_t> ResolveLimit(const char* name, int32_t value, int32_t limit) {
  if (value >= 0 && value <= limit) return value == 0 ? limit : value;
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", value, " is outside [0, ", limit, "], the backend's limit"));
}

absl::StatusOr<SchedulerOptions> ResolveOptions(const EngineOptions& options,
                                                const RunnerLimits& limits) {
  if (options.max_queued_requests < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_queued_requests: ", options.max_queued_requests, " is below 1"));
  }
  if (options.max_queued_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_queued_tokens: ", options.max_queued_tokens, " is negative"));
  }
  if (options.max_prefill_chunk < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_prefill_chunk: ", options.max_prefill_chunk, " is negative"));
  }
  if (options.max_mixed_prefill_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_mixed_prefill_tokens: ", options.max_mixed_prefill_tokens, " is negative"));
  }
  const auto tokens = ResolveLimit("max_num_batched_tokens", options.max_num_batched_tokens,
                                   limits.max_num_batched_tokens);
  if (!tokens.ok()) return tokens.status();
  const auto seqs = ResolveLimit("max_num_seqs", options.max_num_seqs, limits.max_num_seqs);
  if (!seqs.ok()) return seqs.status();
  if (*tokens < *seqs) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_num_batched_tokens: ", *tokens, " is less than max_num_seqs ", *seqs));
  }
  return SchedulerOptions{.num_pages = limits.num_pages,
                          .max_num_seqs = *seqs,
                          .max_num_batched_tokens = *tokens,
                          .max_prefill_chunk = options.max_prefill_chunk,
                          .max_mixed_prefill_tokens = options.max_mixed_prefill_tokens,
                          .max_context_tokens = limits.max_context_tokens,
                          .sliding_window = limits.sliding_window,
                          .max_steps_in_flight = limits.max_steps_in_flight,
                          .enable_prefix_cache = options.enable_prefix_cache,
                          .weights_version = limits.weights_version,
                          .prefix_cache_observer = options.prefix_cache_observer};
}

std::vector<int32_t> EosTokenIds(const EngineOptions& options, const Tokenizer* tokenizer) {
  std::vector<int32_t> ids = options.eos_token_ids;
  if (tokenizer != nullptr && tokenizer->eos_id().has_value()) ids.push_back(*tokenizer->eos_id());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, const SchedulerOptions& scheduler_options,
             std::unique_ptr<ModelRunner> runner, const Tokenizer* tokenizer,
             EngineObserver* observer)
      : runner_(std::move(runner)),
        tokenizer_(tokenizer),
        observer_(observer != nullptr ? observer : &no_observer_),
        scheduler_(scheduler_options),
        inbox_(options.max_queued_requests, options.max_queued_tokens),
        loop_(scheduler_options, EosTokenIds(options, tokenizer), &scheduler_, runner_.get(),
              &inbox_, &board_, observer_),
        thread_([this] {
          NameThisThread("engine");
          loop_.Run();
        }) {}

  ~EngineImpl() override {
    inbox_.Stop();
    thread_.join();
  }

  absl::Status Submit(Request request, std::shared_ptr<TokenSink> sink) override {
    absl::Status status = Accept(std::move(request), std::move(sink));
    if (status.ok()) {
      observer_->OnAccepted();
    } else {
      observer_->OnRefused(status.code());
    }
    return status;
  }

  void Cancel(std::string_view request_id, const TokenSink& sink, absl::Status status) override {
    inbox_.Cancel(request_id, &sink, std::move(status));
  }

  bool Abort(std::string_view request_id, std::string_view principal,
             absl::Status status) override {
    return inbox_.Abort(request_id, principal, std::move(status));
  }

  void BeginDrain() override { inbox_.BeginDrain(); }
  bool AwaitDrained(absl::Time deadline) override { return inbox_.AwaitEmpty(deadline); }
  void AbortAll(absl::Status status) override { inbox_.CancelAll(status); }
  int32_t FlushPrefixCache() override { return inbox_.FlushPrefixCache(); }

  EngineStats Stats() const override {
    // The board first: a request between both must not be finished before it was submitted.
    EngineStats stats = board_.Read();
    const Inbox::Counts counts = inbox_.GetCounts();
    stats.requests_submitted = counts.submitted;
    stats.draining = counts.draining;
    // What the engine thread has not seen yet counts all the same: a request that waits for
    // a hung engine is not idleness.
    stats.gauges.requests_waiting = std::max(0, counts.live - stats.gauges.requests_running);
    stats.idle = stats.idle && counts.live == 0;
    if (counts.live > 0) stats.last_progress = std::max(stats.last_progress, counts.busy_since);
    return stats;
  }

  const RunnerLimits& limits() const override { return runner_->limits(); }
  const ModelDescription& model() const override { return runner_->description(); }

 private:
  absl::Status Accept(Request request, std::shared_ptr<TokenSink> sink) {
    const bool has_tokenizer = tokenizer_ != nullptr;
    absl::Status valid = ValidateRequest(request, limits().vocab_size, has_tokenizer);
    if (!valid.ok()) return valid;
    if (absl::Status fits = scheduler_.CheckFits(request); !fits.ok()) return fits;
    // Asked here too, as what follows takes a pass over the prompt and memory for it.
    const auto tokens = static_cast<int64_t>(request.prompt.size());
    if (absl::Status room = inbox_.CheckAccepts(request.id, tokens); !room.ok()) return room;
    return inbox_.Submit(std::make_unique<LiveRequest>(std::move(request), std::move(sink),
                                                       tokenizer_, SteadyNow()));
  }

  const std::unique_ptr<ModelRunner> runner_;
  const Tokenizer* const tokenizer_;
  EngineObserver no_observer_;
  EngineObserver* const observer_;
  Scheduler scheduler_;  // the engine thread's, but for CheckFits
  Inbox inbox_;
  StatsBoard board_;
  EngineLoop loop_;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       std::unique_ptr<ModelRunner> runner,
                                                       const Tokenizer* tokenizer,
                                                       EngineObserver* observer) {
  const auto scheduler_options = ResolveOptions(options, runner->limits());
  if (!scheduler_options.ok()) return scheduler_options.status();
  const int32_t pages = scheduler_options->num_pages;
  try {
    return std::make_unique<EngineImpl>(options, *scheduler_options, std::move(runner), tokenizer,
                                        observer);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("out of memory for the tables of ", pages, " KV pages: lower their number"));
  }
}

}  // namespace parallax
