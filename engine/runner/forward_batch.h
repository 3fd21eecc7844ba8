// ForwardBatch and StepResult: all that passes between scheduling and a model backend.
//
// Plain data, so that a step can be recorded, replayed and compared, and so that a GPU
// backend can copy it to the device in one go. The vectors are reused from step to step;
// after warm-up a step allocates nothing.
//
// Slots. A running sequence owns a slot in [0, max_num_seqs) from the step that attaches
// it to the step that detaches it. The backend keeps per-slot what must survive between
// steps without the host's knowledge: the last sampled token (the next step's input when
// two steps are in flight) and the token counts that penalties need.
//
// Rows. The batch's tokens are concatenated in sequence order: row i of every [tokens, *]
// tensor belongs to token_ids[i]. Sequence s owns rows query_start[s]..query_start[s+1].
//
// Thread safety: none needed; written by the engine thread before Launch, read by the
// backend until the matching Collect, never both at once.
#ifndef PARALLAX_ENGINE_RUNNER_FORWARD_BATCH_H_
#define PARALLAX_ENGINE_RUNNER_FORWARD_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache/page.h"
#include "engine/sampling_params.h"

namespace parallax {

/// In token_ids: "the token this slot sampled last", known only to the backend.
inline constexpr int32_t kTokenFromSlot = -1;

/// A sequence enters a slot. `params` stays valid until the slot's last sample is collected:
/// a backend must not read it when the slot is detached, which may be later. The spans are
/// read by Launch only.
struct SlotAttach {
  int32_t slot;
  int32_t choice_index;
  const SamplingParams* params;
  std::span<const int32_t> prompt;     // for penalties
  std::span<const int32_t> generated;  // non-empty after a preemption
  int32_t adapter_id = 0;              // seam: 0 = base model
};

/// Sample one token for `slot` from logits of `logits_index` (an index into logits_rows;
/// several tasks may share one row: n choices of one prompt).
struct SampleTask {
  int32_t logits_index;
  int32_t slot;
  int32_t output_position;  // how many tokens the sequence generated before: the RNG counter
};

/// Score rows [first_row, first_row + count): row i's logits against targets[i].
struct PromptLogprobTask {
  int32_t slot;
  int32_t first_row;
  int32_t count;
  int32_t target_begin;  // into prompt_targets
  int32_t top_k;
};

struct ForwardBatch {
  uint64_t step_id = 0;

  // Applied in this order before the forward pass.
  std::vector<int32_t> detached_slots;
  std::vector<SlotAttach> attached_slots;
  std::vector<PageCopy> page_copies;

  // Per token row.
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;
  std::vector<int64_t> slot_mapping;  // page * kPageTokens + offset: where the row's K/V go

  // Per sequence.
  std::vector<int32_t> sequence_slots;  // [S]
  std::vector<int32_t> query_start;     // [S + 1]
  std::vector<int32_t> context_len;     // [S] keys visible to the sequence's last row
  std::vector<int32_t> block_tables;    // [S, block_table_stride] pages, kNoPage padded
  int32_t block_table_stride = 0;

  // What is read out.
  std::vector<int32_t> logits_rows;  // row index of each row whose logits are sampled
  std::vector<SampleTask> samples;
  std::vector<PromptLogprobTask> prompt_logprobs;
  std::vector<int32_t> prompt_targets;

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  int num_sequences() const { return static_cast<int>(sequence_slots.size()); }
  void Clear();
};

/// One sampled token. Log-probabilities are of the raw distribution.
struct SampledToken {
  int32_t token = 0;
  bool nan_logits = false;     // the row held NaN: `token` is meaningless
  bool no_token_left = false;  // bans and masks left none: likewise
  float logprob = 0.0f;
  int32_t top_begin = 0;  // into StepResult::top_ids / top_logprobs
  int32_t top_count = 0;
};

struct PromptLogprob {
  float logprob = 0.0f;
  int32_t top_begin = 0;
  int32_t top_count = 0;
  bool nan_logits = false;
};

/// Results in the order of ForwardBatch::samples and of the rows of ::prompt_logprobs.
struct StepResult {
  uint64_t step_id = 0;
  std::vector<SampledToken> samples;
  std::vector<PromptLogprob> prompt_logprobs;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
  void Clear();
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_FORWARD_BATCH_H_
