// Engine: continuous batching over one model backend.
//
// One thread, started by Create and joined by the destructor, owns scheduler, KV cache and
// backend without locks. Its loop is: drain messages, schedule, launch, collect, deliver;
// with nothing to do it waits on a condition variable. Everything else only submits and
// cancels; both are messages in bounded queues.
//
// Life of a request
//   1. Submit validates, reserves a place in the bounded queue and returns.
//   2. The engine thread takes it in: state waiting, FCFS within its priority class.
//   3. Scheduled: pages for the whole prompt are reserved at once (less the prefix hit).
//   4. Prefill in chunks under the step's token budget, beside every running decode.
//   5. First token; n > 1 choices fork here and share the prompt's pages.
//   6. One token a step until EOS, a stop, max_tokens, cancellation or a deadline.
//   7. Preempted when pages run out: pages freed, tokens kept, back to waiting.
//   8. OnDone is called when the step is completed; pages and slots are released with it, or
//      with the next one if that is in flight already.
//
// Bound on the gap between two tokens of a running (not preempted) sequence: every running
// sequence is in every step, so the gap is one step of at most
// max_num_batched_tokens rows, however long the prompts that arrive. With two steps in flight
// a sequence that waits for pages which the other step still uses sits out one step: two.
//
// Thread safety: all public methods may be called from any thread.
#ifndef PARALLAX_ENGINE_ENGINE_H_
#define PARALLAX_ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine_observer.h"
#include "engine/kv_cache/prefix_cache.h"
#include "engine/request.h"
#include "engine/runner/model_runner.h"
#include "engine/token_sink.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax {

struct EngineOptions {
  /// Requests accepted and not yet running; one more is refused with RESOURCE_EXHAUSTED.
  int32_t max_queued_requests = 1024;
  /// Prompt tokens of those; 0 = no limit of its own. A prompt longer than that may wait alone.
  int64_t max_queued_tokens = 0;
  /// Token rows a step; 0 = the backend's limit. At least max_num_seqs.
  int32_t max_num_batched_tokens = 0;
  /// Running sequences (choices); 0 = the backend's limit.
  int32_t max_num_seqs = 0;
  /// Most prompt tokens of one sequence in a step; 0 = no limit of its own.
  int32_t max_prefill_chunk = 0;
  /// Most prompt tokens of a step in which some sequence decodes; 0 = no limit of its own.
  int32_t max_mixed_prefill_tokens = 0;
  bool enable_prefix_cache = true;
  /// Told, on the engine thread, what the prefix cache holds; may be null. Outlives the engine.
  PrefixCacheObserver* prefix_cache_observer = nullptr;
  /// Ids that end a choice, beside the tokenizer's EOS: those of the model folder.
  std::vector<int32_t> eos_token_ids;
};

/// A moment's picture, for GetStats and liveness.
struct EngineStats {
  EngineGauges gauges;
  uint64_t steps = 0;  // completed since start
  uint64_t requests_submitted = 0;
  uint64_t requests_finished = 0;
  uint64_t tokens_generated = 0;
  uint64_t prompt_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_cache_query_tokens = 0;
  uint64_t prefix_cache_hit_tokens = 0;
  bool draining = false;
  /// Non-OK once the backend broke: the engine refuses all work and should be restarted.
  absl::Status health;
  /// When the loop last completed a step or was seen idle, on the clock of SteadyNow.
  absl::Time last_progress;
  bool idle = true;
};

class Engine {
 public:
  /// `tokenizer` may be null (token ids only). `observer` may be null. Both, and the
  /// runner's model, outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        std::unique_ptr<ModelRunner> runner,
                                                        const Tokenizer* tokenizer,
                                                        EngineObserver* observer);
  /// Ends every live request with UNAVAILABLE and joins the thread.
  virtual ~Engine() = default;

  /// Errors: INVALID_ARGUMENT (names the field), RESOURCE_EXHAUSTED (queue full),
  /// ALREADY_EXISTS (id is live), UNAVAILABLE (draining or broken). After OK the sink
  /// gets exactly one OnDone; after an error it is never called. RESOURCE_EXHAUSTED carries
  /// a retry hint (engine/retry_after.h).
  virtual absl::Status Submit(Request request, std::shared_ptr<TokenSink> sink) = 0;

  /// Ends the request that was submitted with `sink` and `request_id`, with `status` (not OK), at
  /// the end of the step in flight, in any state. No effect if it is not live, even if its id is
  /// another's by now. CANCELLED ends with finish reason cancelled.
  virtual void Cancel(std::string_view request_id, const TokenSink& sink, absl::Status status) = 0;

  /// The same for a request that `principal` submitted. Returns whether there is one.
  virtual bool Abort(std::string_view request_id, std::string_view principal,
                     absl::Status status) = 0;

  /// Refuses new requests from now on; live ones go on.
  virtual void BeginDrain() = 0;
  /// Waits until no request is live. False if `deadline`, in system time, passed first.
  virtual bool AwaitDrained(absl::Time deadline) = 0;
  /// Ends every live request with `status`.
  virtual void AbortAll(absl::Status status) = 0;

  /// Forgets every cached prefix that no running sequence holds. Returns pages freed.
  virtual int32_t FlushPrefixCache() = 0;

  virtual EngineStats Stats() const = 0;
  virtual const RunnerLimits& limits() const = 0;
  virtual const ModelDescription& model() const = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_ENGINE_H_
