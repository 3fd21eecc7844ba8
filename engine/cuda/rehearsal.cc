#include "engine/cuda/rehearsal.h"

#include <algorithm>

namespace parallax {
namespace {

// A prompt of `tokens` zeros in the next slot, in pages from 0 on.
void AddPrompt(int tokens, const SamplingParams* params, ForwardBatch& batch) {
  const int32_t slot = batch.num_sequences();
  batch.attached_slots.push_back(
      {.slot = slot, .choice_index = 0, .params = params, .prompt = {}, .generated = {}});
  if (batch.query_start.empty()) batch.query_start.push_back(0);
  for (int32_t position = 0; position < tokens; ++position) {
    batch.token_ids.push_back(0);
    batch.positions.push_back(position);
    batch.slot_mapping.push_back(position);
  }
  batch.sequence_slots.push_back(slot);
  batch.query_start.push_back(batch.num_tokens());
  batch.context_len.push_back(tokens);
  batch.logits_rows.push_back(batch.num_tokens() - 1);
  batch.samples.push_back({.logits_index = static_cast<int32_t>(batch.logits_rows.size()) - 1,
                           .slot = slot,
                           .output_position = 0});
}

void AddBlockTables(ForwardBatch& batch) {
  const int32_t longest = *std::max_element(batch.context_len.begin(), batch.context_len.end());
  batch.block_table_stride = (longest + kPageTokens - 1) / kPageTokens;
  for (int s = 0; s < batch.num_sequences(); ++s) {
    for (int32_t page = 0; page < batch.block_table_stride; ++page) {
      batch.block_tables.push_back(page);
    }
  }
}

// Scores rows of the first prompt: 1, 2, 4 and so on at once, then one more than a group has. The
// sampler has a kernel each for few and for more rows.
void AddScores(int rows, int score_group, ForwardBatch& batch) {
  int first_row = 0;
  const auto add = [&](int count) {
    if (count <= 0) return;
    batch.prompt_logprobs.push_back(
        {.slot = 0, .first_row = first_row, .count = count, .target_begin = first_row, .top_k = 1});
    first_row += count;
  };
  for (int count = 1; count < score_group && first_row + count <= rows; count *= 2) add(count);
  add(std::min(rows - first_row, score_group + 1));
  batch.prompt_targets.assign(first_row, 0);
}

ForwardBatch LongPrompt(const RunnerLimits& limits, int score_group, const SamplingParams* params) {
  ForwardBatch batch;
  const int tokens = std::min(limits.max_num_batched_tokens, limits.max_context_tokens);
  AddPrompt(tokens, params, batch);
  AddBlockTables(batch);
  batch.page_copies = {{.src = 0, .dst = 0}};
  AddScores(tokens - 1, score_group, batch);
  return batch;
}

ForwardBatch MixedStep(const RunnerLimits& limits, const SamplingParams* params) {
  ForwardBatch batch;
  AddPrompt(1, params, batch);
  batch.slot_mapping[0] = -1;  // the other prompt writes there
  const int left = std::min(limits.max_num_batched_tokens - 1, limits.max_context_tokens);
  if (limits.max_num_seqs > 1 && left > 0) AddPrompt(std::min(left, kPageTokens), params, batch);
  AddBlockTables(batch);
  return batch;
}

}  // namespace

std::vector<ForwardBatch> RehearsalSteps(const RunnerLimits& limits, int score_group,
                                         const SamplingParams* params) {
  return {LongPrompt(limits, score_group, params), MixedStep(limits, params)};
}

}  // namespace parallax
