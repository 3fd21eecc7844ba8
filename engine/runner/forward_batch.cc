#include "engine/runner/forward_batch.h"

namespace parallax {

void ForwardBatch::Clear() {
  step_id = 0;
  detached_slots.clear();
  attached_slots.clear();
  page_copies.clear();
  token_ids.clear();
  positions.clear();
  slot_mapping.clear();
  sequence_slots.clear();
  query_start.clear();
  context_len.clear();
  block_tables.clear();
  block_table_stride = 0;
  logits_rows.clear();
  samples.clear();
  prompt_logprobs.clear();
  prompt_targets.clear();
}

void StepResult::Clear() {
  step_id = 0;
  samples.clear();
  prompt_logprobs.clear();
  top_ids.clear();
  top_logprobs.clear();
}

}  // namespace parallax
