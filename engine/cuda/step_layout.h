// How a step's plain data travels to the GPU: one block, copied in one piece.
//
// The host packs a ForwardBatch and the sampling parameters of its slots into pinned memory;
// kernels read the same bytes at the same offsets of a device block. A StepLayout says where each
// array lies. It depends on the shape alone, so a CUDA graph captured for a padded shape finds its
// arrays wherever the step's contents came from. Block tables travel beside it, because their
// rows have a pitch of their own.
//
// Padding. A decode step is padded to its bucket with sequences that do nothing: token 0 at
// position 0, no slot to write to, no context, no logits to sample.
//
// Order. The sequences of one token row that a batch begins with are decode sequences; the others
// are prefilled together. A one-token prompt is served as well by the decode kernel.
//
// Thread safety: pure functions over plain data.
#ifndef PARALLAX_ENGINE_CUDA_STEP_LAYOUT_H_
#define PARALLAX_ENGINE_CUDA_STEP_LAYOUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/cuda/slot_table.h"
#include "engine/runner/forward_batch.h"
#include "kernels/cuda/sampling.h"
#include "kernels/kv_cache_write.h"
#include "kernels/sampling.h"

namespace parallax {

struct StepShape {
  int tokens = 0;
  int sequences = 0;
  int decode_sequences = 0;  // the first ones, of one row each
  int logits_rows = 0;
  int samples = 0;
  int scored_rows = 0;  // of prompt log-probabilities
  int page_copies = 0;

  int prefill_sequences() const { return sequences - decode_sequences; }
  int prefill_tokens() const { return tokens - decode_sequences; }
  bool decode_only() const { return prefill_sequences() == 0 && scored_rows == 0; }
  /// What a decode step must be padded to at least. Several choices may be sampled from one row.
  int decode_rows() const { return std::max(tokens, samples); }
};

StepShape ShapeOf(const ForwardBatch& batch);

/// The shape that a decode step has when it is padded to `bucket` sequences.
StepShape DecodeShape(int bucket);

/// Byte offsets of each array in the block, and the block's size.
struct StepLayout {
  explicit StepLayout(const StepShape& shape);

  size_t slot_mapping;         // int64 [tokens]
  size_t token_ids;            // int32 [tokens]; -1 - s: what slot s sampled last
  size_t positions;            // int32 [tokens]
  size_t context_len;          // int32 [sequences]
  size_t prefill_query_start;  // int32 [prefill_sequences + 1], from 0
  size_t logits_rows;          // int32 [logits_rows]
  size_t sampling_rows;        // DeviceSamplingRow [samples]
  size_t score_rows;           // DeviceSamplingRow [scored_rows]
  size_t score_bias;           // LogitBias [scored_rows]
  size_t page_copies;          // PageCopy [page_copies]
  size_t size;
};

/// Writes the batch into `block`, padded to `shape` (ShapeOf(batch), or DecodeShape of at least
/// its decode_rows() with the batch's page copies). With all_logits, row i of the logits is token
/// row i; else it is that of logits_rows[i].
/// Rows of prompts are scored in groups of `score_group` rows of logits.
/// Throws KernelError, naming the array, when the batch does not fit the shape.
void PackStep(const ForwardBatch& batch, const StepShape& shape, bool all_logits, int score_group,
              std::span<const SlotState> slots, std::byte* block);

/// The targets of all scored rows, in their order. `targets` is overwritten.
void ScoreTargets(const ForwardBatch& batch, std::vector<int32_t>& targets);

/// The log-probability of the token that a row was scored for, from the sampler's result for it,
/// which is not kNan. -inf if its logit is.
float LogprobOfTarget(const kernels::SampleResult& scored, int32_t target);

/// Numbers of sequences that decode graphs are captured for, ascending, the last at least
/// max_num_seqs: steps small enough that padding costs little.
std::vector<int> DecodeBuckets(int max_num_seqs);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_STEP_LAYOUT_H_
