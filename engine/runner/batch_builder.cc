#include "engine/runner/batch_builder.h"

#include <algorithm>

#include "engine/kv_cache/block_table.h"

namespace parallax {
namespace {

int32_t ContextLength(const ScheduledSequence& entry) {
  return entry.first_position + entry.num_tokens;
}

void AttachSlots(const ScheduledBatch& scheduled, ForwardBatch* batch) {
  for (const Sequence* sequence : scheduled.attached) {
    const Request& request = sequence->group->request;
    const std::span<const int32_t> tokens = sequence->tokens;
    batch->attached_slots.push_back({.slot = sequence->slot,
                                     .choice_index = sequence->choice,
                                     .params = &request.sampling,
                                     .prompt = tokens.first(sequence->num_prompt),
                                     .generated = tokens.subspan(sequence->num_prompt),
                                     .adapter_id = request.adapter_id});
  }
}

void AddDecodeRow(const ScheduledSequence& entry, ForwardBatch* batch) {
  const Sequence& sequence = *entry.sequence;
  const int32_t position = entry.first_position;
  const bool known = position < static_cast<int32_t>(sequence.tokens.size());
  batch->token_ids.push_back(known ? sequence.tokens[position] : kTokenFromSlot);
  batch->positions.push_back(position);
  const int64_t page = sequence.block_table.page(position / kPageTokens);
  batch->slot_mapping.push_back(page * kPageTokens + position % kPageTokens);
}

// A prefill's tokens are all known.
void AddPrefillRows(const ScheduledSequence& entry, ForwardBatch* batch) {
  const Sequence& sequence = *entry.sequence;
  const auto first = sequence.tokens.begin() + entry.first_position;
  batch->token_ids.insert(batch->token_ids.end(), first, first + entry.num_tokens);
  for (int32_t position = entry.first_position; position < ContextLength(entry); ++position) {
    batch->positions.push_back(position);
    const int64_t page = sequence.block_table.page(position / kPageTokens);
    batch->slot_mapping.push_back(page * kPageTokens + position % kPageTokens);
  }
}

void AddPromptLogprobs(const ScheduledSequence& entry, ForwardBatch* batch) {
  const Sequence& sequence = *entry.sequence;
  const int32_t first_row = batch->query_start.back();
  batch->prompt_logprobs.push_back(
      {.slot = sequence.slot,
       .first_row = first_row + (entry.first_target - 1 - entry.first_position),
       .count = entry.num_targets,
       .target_begin = static_cast<int32_t>(batch->prompt_targets.size()),
       .top_k = sequence.group->request.sampling.prompt_logprobs.value_or(0)});
  const auto first = sequence.tokens.begin() + entry.first_target;
  batch->prompt_targets.insert(batch->prompt_targets.end(), first, first + entry.num_targets);
}

void AddSequences(const ScheduledBatch& scheduled, ForwardBatch* batch) {
  batch->query_start.push_back(0);
  for (const ScheduledSequence& entry : scheduled.sequences) {
    batch->sequence_slots.push_back(entry.sequence->slot);
    batch->context_len.push_back(ContextLength(entry));
    if (entry.decode) {
      AddDecodeRow(entry, batch);
    } else {
      AddPrefillRows(entry, batch);
    }
    if (entry.num_targets > 0) {
      AddPromptLogprobs(entry, batch);
    }
    batch->query_start.push_back(batch->num_tokens());
    if (entry.samples) {
      batch->logits_rows.push_back(batch->num_tokens() - 1);
    }
  }
}

// Only the pages up to the last visible key: pages reserved for later chunks stay out.
void AddBlockTables(const ScheduledBatch& scheduled, ForwardBatch* batch) {
  int32_t longest = 0;
  for (const int32_t length : batch->context_len) {
    longest = std::max(longest, length);
  }
  const int32_t stride = PagesForTokens(longest);
  batch->block_table_stride = stride;
  batch->block_tables.resize(scheduled.sequences.size() * static_cast<size_t>(stride));
  int32_t* row = batch->block_tables.data();
  for (const ScheduledSequence& entry : scheduled.sequences) {
    const int32_t count = PagesForTokens(ContextLength(entry));
    const int32_t* pages = entry.sequence->block_table.pages().data();
    std::fill(std::copy(pages, pages + count, row), row + stride, kNoPage);
    row += stride;
  }
}

void AddSamples(const ScheduledBatch& scheduled, ForwardBatch* batch) {
  int32_t logits_index = -1;
  for (const ScheduledSample& sample : scheduled.samples) {
    logits_index += sample.forked ? 0 : 1;
    batch->samples.push_back({.logits_index = logits_index,
                              .slot = sample.sequence->slot,
                              .output_position = sample.output_position});
  }
}

}  // namespace

void BuildForwardBatch(const ScheduledBatch& scheduled, ForwardBatch* batch) {
  batch->Clear();
  batch->step_id = scheduled.step_id;
  batch->detached_slots.assign(scheduled.detached_slots.begin(), scheduled.detached_slots.end());
  batch->page_copies.assign(scheduled.page_copies.begin(), scheduled.page_copies.end());
  AttachSlots(scheduled, batch);
  AddSequences(scheduled, batch);
  AddBlockTables(scheduled, batch);
  AddSamples(scheduled, batch);
}

}  // namespace parallax
