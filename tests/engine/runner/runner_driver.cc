#include "tests/engine/runner/runner_driver.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace parallax::testing {

int32_t DrivenSequence::TokenAt(int32_t position) const {
  const auto prompt_size = static_cast<int32_t>(prompt.size());
  return position < prompt_size ? prompt[position] : generated[position - prompt_size];
}

void RunnerDriver::Attach(DrivenSequence& sequence, int32_t slot) {
  sequence.slot = slot;
  batch_.attached_slots.push_back({.slot = slot,
                                   .choice_index = sequence.choice_index,
                                   .params = &sequence.params,
                                   .prompt = sequence.prompt,
                                   .generated = sequence.generated});
}

void RunnerDriver::Detach(DrivenSequence& sequence) {
  batch_.detached_slots.push_back(sequence.slot);
  sequence.slot = -1;
}

void RunnerDriver::Add(DrivenSequence& sequence, int32_t count, bool from_slot) {
  if (batch_.query_start.empty()) batch_.query_start.push_back(0);
  for (int32_t position = sequence.computed; position < sequence.computed + count; ++position) {
    if (position / kPageTokens == static_cast<int32_t>(sequence.pages.size())) {
      sequence.pages.push_back(NewPage());
    }
    const bool known = position < sequence.known_length() && !from_slot;
    batch_.token_ids.push_back(known ? sequence.TokenAt(position) : kTokenFromSlot);
    batch_.positions.push_back(position);
    batch_.slot_mapping.push_back(int64_t{sequence.pages.back()} * kPageTokens +
                                  position % kPageTokens);
  }
  sequence.computed += count;
  batch_.sequence_slots.push_back(sequence.slot);
  batch_.query_start.push_back(batch_.num_tokens());
  batch_.context_len.push_back(sequence.computed);
  tables_.push_back(sequence.pages);
  if (sequence.computed == sequence.length()) Fork({&sequence});
}

void RunnerDriver::Fork(const std::vector<DrivenSequence*>& choices) {
  batch_.logits_rows.push_back(batch_.num_tokens() - 1);
  for (DrivenSequence* choice : choices) {
    batch_.samples.push_back(
        {.logits_index = static_cast<int32_t>(batch_.logits_rows.size()) - 1,
         .slot = choice->slot,
         .output_position = static_cast<int32_t>(choice->generated.size()) + choice->in_flight++});
    sampled_.push_back(choice);
  }
}

void RunnerDriver::ScorePrompt(const DrivenSequence& sequence, int32_t first_row, int32_t count,
                               int32_t top_k) {
  const int32_t first_position = batch_.positions[first_row];
  batch_.prompt_logprobs.push_back(
      {.slot = sequence.slot,
       .first_row = first_row,
       .count = count,
       .target_begin = static_cast<int32_t>(batch_.prompt_targets.size()),
       .top_k = top_k});
  for (int32_t i = 1; i <= count; ++i) {
    batch_.prompt_targets.push_back(sequence.prompt[first_position + i]);
  }
}

StepResult RunnerDriver::Step() {
  Launch();
  return Collect();
}

void RunnerDriver::Launch() {
  batch_.step_id = next_step_++;
  for (const auto& table : tables_) {
    batch_.block_table_stride =
        std::max(batch_.block_table_stride, static_cast<int32_t>(table.size()));
  }
  for (auto& table : tables_) {
    table.resize(batch_.block_table_stride, kNoPage);
    batch_.block_tables.insert(batch_.block_tables.end(), table.begin(), table.end());
  }
  Flight& flight = flights_.emplace_back(Flight{std::move(batch_), std::move(sampled_)});
  batch_.Clear();
  tables_.clear();
  sampled_.clear();
  if (const auto status = runner_.Launch(flight.batch); !status.ok()) {
    throw std::runtime_error(status.ToString());
  }
}

StepResult RunnerDriver::Collect() {
  const Flight flight = std::move(flights_.front());
  flights_.pop_front();
  const absl::StatusOr<const StepResult*> result = runner_.Collect();
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  if ((*result)->step_id != flight.batch.step_id ||
      (*result)->samples.size() != flight.sampled.size()) {
    throw std::runtime_error("the result is not the batch's");
  }
  for (size_t i = 0; i < flight.sampled.size(); ++i) {
    DrivenSequence& sequence = *flight.sampled[i];
    sequence.samples.push_back((*result)->samples[i]);
    sequence.generated.push_back((*result)->samples[i].token);
    --sequence.in_flight;
  }
  return **result;
}

void RunnerDriver::Generate(DrivenSequence& sequence, int32_t tokens, int32_t chunk) {
  while (static_cast<int32_t>(sequence.generated.size()) < tokens) {
    Add(sequence, std::min(chunk, sequence.length() - sequence.computed));
    Step();
  }
}

}  // namespace parallax::testing
