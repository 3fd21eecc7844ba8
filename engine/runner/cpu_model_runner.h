// CpuModelRunner: the CPU backend behind the ModelRunner interface.
//
// Owns the thread pool, the weights, the decoder with its activations, the KV pages of every
// layer and the per-slot sampler state, all allocated by Create. A step runs to its end inside
// Launch; Collect hands over its result.
//
// A row's token and logits depend on its own sequence alone, bit for bit (see decoder.h and
// kernels/sampling.h): not on the batch, the chunking or the number of threads.
//
// Thread safety: as ModelRunner. Errors: a step that the kernels' checks refuse is
// INVALID_ARGUMENT, any other failure INTERNAL.
#ifndef PARALLAX_ENGINE_RUNNER_CPU_MODEL_RUNNER_H_
#define PARALLAX_ENGINE_RUNNER_CPU_MODEL_RUNNER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/models/communicator.h"
#include "engine/models/decoder.h"
#include "engine/models/host_buffer.h"
#include "engine/models/model_config.h"
#include "engine/models/weights.h"
#include "engine/runner/model_runner.h"
#include "engine/runner/token_counter.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/dtype.h"
#include "kernels/kv_cache_view.h"
#include "kernels/kv_cache_write.h"
#include "kernels/logprobs.h"
#include "kernels/sampling.h"
#include "kernels/stream.h"

namespace parallax {

struct CpuModelRunnerOptions {
  std::string name;  // shown to operators
  kernels::DType kv_cache_dtype = kernels::DType::kBFloat16;
  int32_t max_context_tokens = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;
  /// KV pages, or 0 to divide memory_budget_bytes (see memory_plan.h).
  int32_t num_pages = 0;
  int64_t memory_budget_bytes = 0;
  /// Ids from here on are never sampled: rows of the embedding without a token.
  int32_t token_limit = 0;
  /// Bit i % 32 of word i / 32 allows id i to be sampled: for tokenizers with holes. Empty = all.
  std::vector<uint32_t> token_mask;
  /// Not sampled before a request's min_tokens.
  std::vector<int32_t> eos_token_ids;
};

class CpuModelRunner final : public ModelRunner {
 public:
  /// `pool` is the one that `weights` were packed with. Errors: INVALID_ARGUMENT (a shape
  /// that the ops cannot serve, an option out of range), RESOURCE_EXHAUSTED (memory).
  static absl::StatusOr<std::unique_ptr<CpuModelRunner>> Create(
      const ModelConfig& config, std::unique_ptr<const DecoderWeights> weights,
      const CpuModelRunnerOptions& options, std::unique_ptr<kernels::ThreadPool> pool);

  const RunnerLimits& limits() const override { return limits_; }
  const ModelDescription& description() const override { return description_; }
  absl::Status Launch(const ForwardBatch& batch) override;
  absl::StatusOr<const StepResult*> Collect() override;
  int64_t probe_state_bytes_used() const override { return probe_state_bytes_used_; }

 private:
  /// What survives between the steps of a running sequence.
  struct Slot {
    const SamplingParams* params = nullptr;  // null = free
    int32_t choice_index = 0;
    int32_t last_token = kTokenFromSlot;  // none yet
    bool counts_tokens = false;
    TokenCounter counter;
    std::vector<kernels::LogitBias> logit_bias;
    std::vector<int32_t> banned_until_min_tokens;
  };

  CpuModelRunner(const ModelConfig& config, std::unique_ptr<const DecoderWeights> weights,
                 const CpuModelRunnerOptions& options, std::unique_ptr<kernels::ThreadPool> pool);

  absl::Status Allocate();
  size_t MostCounted(size_t tokens) const;
  void Describe();

  void UpdateSlots(const ForwardBatch& batch);
  void Attach(const SlotAttach& attach);
  void CopyPages(const ForwardBatch& batch);
  void ResolveTokens(const ForwardBatch& batch);
  int64_t ProbeStateBytes(const ForwardBatch& batch) const;
  void ScorePrompts(const ForwardBatch& batch, StepResult& result);
  void ScorePromptRows(const PromptLogprobTask& task, int32_t begin, int32_t count,
                       const ForwardBatch& batch, StepResult& result);
  void SampleTokens(const ForwardBatch& batch, StepResult& result);
  kernels::SamplingRow SamplingRowFor(const Slot& slot, const SampleTask& task) const;

  const ModelConfig config_;
  const CpuModelRunnerOptions options_;
  const std::unique_ptr<kernels::ThreadPool> pool_;
  const kernels::Stream stream_;
  const std::unique_ptr<const DecoderWeights> weights_;
  SingleDeviceCommunicator communicator_;
  std::unique_ptr<Decoder> decoder_;
  RunnerLimits limits_;
  ModelDescription description_;

  std::vector<HostBuffer> pages_;             // one a layer
  std::vector<kernels::KvCacheView> caches_;  // one a layer
  std::vector<Slot> slots_;

  HostBuffer logits_;        // [max_num_seqs, vocab]
  HostBuffer logits_slice_;  // [kLogprobRows, kLogprobColumns]
  HostBuffer sample_workspace_;
  std::vector<int32_t> token_ids_;  // the batch's, kTokenFromSlot resolved
  std::vector<kernels::PageCopy> page_copies_;
  std::vector<int32_t> sample_rows_;
  std::vector<kernels::SamplingRow> sampling_rows_;
  std::vector<kernels::SampleResult> sample_results_;
  std::vector<kernels::LogprobState> logprob_states_;

  // A result lives until the next-but-one Collect: the one being written, the one just
  // collected and the one before it.
  std::array<StepResult, 3> results_;
  uint64_t launched_ = 0;
  uint64_t collected_ = 0;
  int64_t probe_state_bytes_used_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_CPU_MODEL_RUNNER_H_
