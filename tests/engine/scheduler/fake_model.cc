#include "tests/engine/scheduler/fake_model.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/kv_cache/block_table.h"
#include "engine/runner/batch_validation.h"

namespace parallax::testing {
namespace {

uint64_t Mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t FakeRootHash(uint64_t seed) { return Mix(seed % kFakeTenants); }

uint64_t FakeNextHash(uint64_t previous, int32_t token) {
  return Mix(previous ^ Mix(static_cast<uint64_t>(token) + 1));
}

int32_t ExpectedToken(uint64_t hash, int32_t choice) {
  return static_cast<int32_t>(Mix(hash + static_cast<uint64_t>(choice)) % kFakeVocab);
}

std::vector<int32_t> ExpectedTokens(uint64_t seed, std::span<const int32_t> prompt, int32_t choice,
                                    int32_t count) {
  uint64_t hash = FakeRootHash(seed);
  for (const int32_t token : prompt) {
    hash = FakeNextHash(hash, token);
  }
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) {
    tokens.push_back(ExpectedToken(hash, choice));
    hash = FakeNextHash(hash, tokens.back());
  }
  return tokens;
}

FakeModel::FakeModel(const RunnerLimits& limits)
    : limits_(limits),
      slots_(static_cast<size_t>(limits.max_num_seqs)),
      roots_(static_cast<size_t>(limits.max_num_seqs)),
      pages_(static_cast<size_t>(limits.num_pages) * kPageTokens) {}

std::string FakeModel::Launch(const ForwardBatch* batch) {
  in_flight_.push_back(batch);
  if (absl::Status status = ValidateBatch(*batch, limits_); !status.ok()) {
    return std::string(status.message());
  }
  return ApplySlots(*batch);
}

std::string FakeModel::Collect(StepResult* result) {
  const ForwardBatch& batch = *in_flight_.front();
  in_flight_.pop_front();
  std::string broken = Write(batch);
  if (broken.empty()) broken = Read(batch);
  if (broken.empty()) broken = CheckPromptTargets(batch);
  if (broken.empty()) broken = Sample(batch, result);
  return broken;
}

void FakeModel::Append(Slot* slot, int32_t token, uint64_t root) {
  slot->hashes.push_back(FakeNextHash(slot->hashes.empty() ? root : slot->hashes.back(), token));
  slot->tokens.push_back(token);
}

std::string FakeModel::ApplySlots(const ForwardBatch& batch) {
  for (const int32_t slot : batch.detached_slots) {
    if (!slots_[slot].attached) {
      return absl::StrFormat("slot %d is detached, but was not attached", slot);
    }
    slots_[slot].attached = false;
  }
  for (const SlotAttach& attach : batch.attached_slots) {
    Slot& slot = slots_[attach.slot];
    if (slot.attached) {
      return absl::StrFormat("slot %d is attached twice", attach.slot);
    }
    slot.attached = true;
    slot.choice = attach.choice_index;
    slot.num_prompt = static_cast<int32_t>(attach.prompt.size());
    slot.tokens.clear();
    slot.hashes.clear();
    roots_[attach.slot] = FakeRootHash(attach.params->seed);
    for (const int32_t token : attach.prompt) Append(&slot, token, roots_[attach.slot]);
    for (const int32_t token : attach.generated) Append(&slot, token, roots_[attach.slot]);
  }
  return "";
}

std::string FakeModel::Write(const ForwardBatch& batch) {
  for (const PageCopy& copy : batch.page_copies) {
    std::copy_n(pages_.begin() + int64_t{copy.src} * kPageTokens, kPageTokens,
                pages_.begin() + int64_t{copy.dst} * kPageTokens);
  }
  for (int s = 0; s < batch.num_sequences(); ++s) {
    const Slot& slot = slots_[batch.sequence_slots[s]];
    if (!slot.attached) {
      return absl::StrFormat("slot %d runs detached", batch.sequence_slots[s]);
    }
    for (int row = batch.query_start[s]; row < batch.query_start[s + 1]; ++row) {
      if (std::string broken = WriteRow(batch, row, slot); !broken.empty()) {
        return absl::StrFormat("step %d row %d: %s", batch.step_id, row, broken);
      }
    }
  }
  return "";
}

std::string FakeModel::WriteRow(const ForwardBatch& batch, int row, const Slot& slot) {
  const int32_t position = batch.positions[row];
  const int32_t known = static_cast<int32_t>(slot.tokens.size());
  if (position >= known) {
    return absl::StrFormat("position %d of a sequence of %d tokens", position, known);
  }
  const int32_t token = batch.token_ids[row];
  if (token == kTokenFromSlot ? position != known - 1 : token != slot.tokens[position]) {
    return absl::StrFormat("token %d at position %d", token, position);
  }
  pages_[batch.slot_mapping[row]] = slot.hashes[position];
  return "";
}

// All that the rows of a sequence see, once: what its first row sees up to its last row.
std::string FakeModel::Read(const ForwardBatch& batch) const {
  for (int s = 0; s < batch.num_sequences(); ++s) {
    const Slot& slot = slots_[batch.sequence_slots[s]];
    const int32_t first_row = batch.positions[batch.query_start[s]];
    const int32_t begin =
        limits_.sliding_window > 0 ? std::max(0, first_row - limits_.sliding_window + 1) : 0;
    const int32_t* table = batch.block_tables.data() + int64_t{s} * batch.block_table_stride;
    for (int32_t position = begin; position < batch.context_len[s];) {
      const int32_t page = table[position / kPageTokens];
      const int32_t end =
          std::min(batch.context_len[s], (position / kPageTokens + 1) * kPageTokens);
      if (page == kNoPage) {
        return absl::StrFormat("position %d is visible but has no page", position);
      }
      const auto stored = pages_.begin() + int64_t{page} * kPageTokens + position % kPageTokens;
      if (!std::equal(stored, stored + (end - position), slot.hashes.begin() + position)) {
        return absl::StrFormat("step %d slot %d: page %d does not hold positions %d..%d",
                               batch.step_id, batch.sequence_slots[s], page, position, end - 1);
      }
      position = end;
    }
  }
  return "";
}

std::string FakeModel::CheckPromptTargets(const ForwardBatch& batch) const {
  for (const PromptLogprobTask& task : batch.prompt_logprobs) {
    for (int32_t i = 0; i < task.count; ++i) {
      const int32_t next = batch.positions[task.first_row + i] + 1;
      const Slot& slot = slots_[task.slot];
      if (next >= slot.num_prompt ||
          slot.tokens[next] != batch.prompt_targets[task.target_begin + i]) {
        return absl::StrFormat("prompt target of position %d is not the next token", next - 1);
      }
    }
  }
  return "";
}

std::string FakeModel::Sample(const ForwardBatch& batch, StepResult* result) {
  result->Clear();
  result->step_id = batch.step_id;
  for (const SampleTask& task : batch.samples) {
    Slot& slot = slots_[task.slot];
    const int32_t row = batch.logits_rows[task.logits_index];
    const int32_t known = static_cast<int32_t>(slot.tokens.size());
    if (!slot.attached || batch.positions[row] != known - 1) {
      return absl::StrFormat("step %d: slot %d samples from position %d of %d tokens",
                             batch.step_id, task.slot, batch.positions[row], known);
    }
    if (pages_[batch.slot_mapping[row]] != slot.hashes.back()) {
      return absl::StrFormat("slot %d samples from another sequence's logits", task.slot);
    }
    if (task.output_position != known - slot.num_prompt) {
      return absl::StrFormat("slot %d samples output position %d after %d tokens", task.slot,
                             task.output_position, known - slot.num_prompt);
    }
    result->samples.push_back({.token = ExpectedToken(slot.hashes.back(), slot.choice)});
    Append(&slot, result->samples.back().token, roots_[task.slot]);
  }
  return "";
}

}  // namespace parallax::testing
