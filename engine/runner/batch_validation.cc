#include "engine/runner/batch_validation.h"

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace parallax {

namespace {

class BatchValidator {
 public:
  BatchValidator(const ForwardBatch& batch, const RunnerLimits& limits)
      : batch_(batch), limits_(limits) {}

  absl::Status Validate() {
    CheckSizes();
    if (status_.ok()) CheckSequences();
    if (status_.ok()) CheckSlotsAndPages();
    if (status_.ok()) CheckOutputs();
    return status_;
  }

 private:
  void Expect(bool condition, const char* what, int64_t value) {
    if (condition || !status_.ok()) return;
    status_ = absl::InternalError(
        absl::StrCat("step ", batch_.step_id, ": invalid batch: ", what, " = ", value));
  }

  void ExpectWithin(const char* what, int64_t value, int64_t end) {
    Expect(value >= 0 && value < end, what, value);
  }

  void ExpectSlot(const char* what, int32_t slot) {
    ExpectWithin(what, slot, limits_.max_num_seqs);
  }

  void CheckSizes() {
    const size_t rows = batch_.token_ids.size();
    const size_t sequences = batch_.sequence_slots.size();
    Expect(batch_.num_tokens() <= limits_.max_num_batched_tokens, "token_ids.size()", rows);
    Expect(batch_.positions.size() == rows, "positions.size()", batch_.positions.size());
    Expect(batch_.slot_mapping.size() == rows, "slot_mapping.size()", batch_.slot_mapping.size());
    Expect(batch_.num_sequences() <= limits_.max_num_seqs, "sequence_slots.size()", sequences);
    if (rows == 0 && sequences == 0) return;
    Expect(batch_.query_start.size() == sequences + 1, "query_start.size()",
           batch_.query_start.size());
    Expect(batch_.context_len.size() == sequences, "context_len.size()", batch_.context_len.size());
    Expect(batch_.block_tables.size() == sequences * static_cast<size_t>(batch_.block_table_stride),
           "block_tables.size()", batch_.block_tables.size());
  }

  void CheckSequences() {
    int32_t row = 0;
    for (const int32_t start : batch_.query_start) {
      Expect(start >= row && start <= batch_.num_tokens(), "query_start", start);
      row = start;
    }
    if (!batch_.query_start.empty()) {
      Expect(batch_.query_start.front() == 0, "query_start[0]", batch_.query_start.front());
      Expect(row == batch_.num_tokens(), "query_start[S]", row);
    }
    for (const int32_t slot : batch_.sequence_slots) ExpectSlot("sequence_slots", slot);
  }

  void CheckSlotsAndPages() {
    for (const int32_t slot : batch_.detached_slots) ExpectSlot("detached_slots", slot);
    for (const SlotAttach& attach : batch_.attached_slots) {
      ExpectSlot("attached_slots.slot", attach.slot);
      Expect(attach.params != nullptr, "attached_slots.params", 0);
    }
    for (const PageCopy& copy : batch_.page_copies) {
      ExpectWithin("page_copies.src", copy.src, limits_.num_pages);
      ExpectWithin("page_copies.dst", copy.dst, limits_.num_pages);
    }
  }

  void CheckOutputs() {
    const int64_t rows = batch_.num_tokens();
    for (const int32_t row : batch_.logits_rows) ExpectWithin("logits_rows", row, rows);
    const auto num_samples = static_cast<int64_t>(batch_.samples.size());
    Expect(num_samples <= limits_.max_num_seqs, "samples.size()", num_samples);
    for (const SampleTask& task : batch_.samples) {
      ExpectSlot("samples.slot", task.slot);
      ExpectWithin("samples.logits_index", task.logits_index,
                   static_cast<int64_t>(batch_.logits_rows.size()));
    }
    const auto targets = static_cast<int64_t>(batch_.prompt_targets.size());
    for (const PromptLogprobTask& task : batch_.prompt_logprobs) {
      Expect(task.count >= 0, "prompt_logprobs.count", task.count);
      ExpectWithin("prompt_logprobs.first_row", task.first_row, rows + 1);
      Expect(int64_t{task.first_row} + task.count <= rows, "prompt_logprobs rows end",
             int64_t{task.first_row} + task.count);
      ExpectWithin("prompt_logprobs.target_begin", task.target_begin, targets + 1);
      Expect(int64_t{task.target_begin} + task.count <= targets, "prompt_logprobs targets end",
             int64_t{task.target_begin} + task.count);
      ExpectWithin("prompt_logprobs.top_k", task.top_k, SamplingParams::kMaxLogprobs + 1);
    }
  }

  const ForwardBatch& batch_;
  const RunnerLimits& limits_;
  absl::Status status_;
};

}  // namespace

absl::Status ValidateBatch(const ForwardBatch& batch, const RunnerLimits& limits) {
  return BatchValidator(batch, limits).Validate();
}

}  // namespace parallax
