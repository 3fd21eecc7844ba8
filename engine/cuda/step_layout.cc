#include "engine/cuda/step_layout.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"

namespace parallax {

using kernels::LogitBias;
using kernels::cuda::DeviceSamplingRow;

namespace {

constexpr size_t kAlignment = 16;

// Outweighs any logit, so that greedy sampling picks the target; log-probabilities are those of
// the raw logits.
constexpr float kForcingBias = 1e30f;

template <typename T>
T* At(std::byte* block, size_t offset) {
  return reinterpret_cast<T*>(block + offset);
}

int LeadingDecodeSequences(const ForwardBatch& batch) {
  int count = 0;
  while (count < batch.num_sequences() &&
         batch.query_start[count + 1] - batch.query_start[count] == 1) {
    ++count;
  }
  return count;
}

void CheckFits(const char* array, size_t used, size_t size) {
  kernels::Check(used <= size, "PackStep", array, "no more than the shape has",
                 static_cast<double>(used));
}

// Fills the array's tail, the padding.
template <typename T>
void FillTail(std::span<T> array, size_t used, T value) {
  std::fill(array.begin() + used, array.end(), value);
}

class StepPacker {
 public:
  StepPacker(const ForwardBatch& batch, const StepShape& shape, std::span<const SlotState> slots,
             std::byte* block)
      : batch_(batch), shape_(shape), layout_(shape), slots_(slots), block_(block) {}

  void PackTokens() {
    const std::span<int32_t> ids = Array<int32_t>(layout_.token_ids, shape_.tokens);
    CheckFits("token_ids", batch_.token_ids.size(), ids.size());
    for (int s = 0; s < batch_.num_sequences(); ++s) {
      for (int row = batch_.query_start[s]; row < batch_.query_start[s + 1]; ++row) {
        ids[row] = Token(row, batch_.sequence_slots[s]);
      }
    }
    FillTail(ids, batch_.token_ids.size(), 0);
    Copy("positions", batch_.positions, Array<int32_t>(layout_.positions, shape_.tokens), 0);
    Copy("slot_mapping", batch_.slot_mapping, Array<int64_t>(layout_.slot_mapping, shape_.tokens),
         int64_t{-1});
  }

  void PackSequences() {
    Copy("context_len", batch_.context_len, Array<int32_t>(layout_.context_len, shape_.sequences),
         0);
    const std::span<int32_t> starts =
        Array<int32_t>(layout_.prefill_query_start, shape_.prefill_sequences() + 1);
    starts[0] = 0;
    for (int s = 0; s < shape_.prefill_sequences(); ++s) {
      const int sequence = shape_.decode_sequences + s;
      starts[s + 1] = batch_.query_start[sequence + 1] - batch_.query_start[sequence] + starts[s];
    }
  }

  void PackSamples(bool all_logits) {
    Copy("logits_rows", batch_.logits_rows, Array<int32_t>(layout_.logits_rows, shape_.logits_rows),
         -1);
    const std::span<DeviceSamplingRow> rows =
        Array<DeviceSamplingRow>(layout_.sampling_rows, shape_.samples);
    CheckFits("samples", batch_.samples.size(), rows.size());
    for (size_t i = 0; i < batch_.samples.size(); ++i) {
      const SampleTask& task = batch_.samples[i];
      const SlotState& slot = slots_[task.slot];
      rows[i] = slot.row;
      rows[i].position = static_cast<uint32_t>(task.output_position);
      rows[i].logits_index = all_logits ? batch_.logits_rows[task.logits_index] : task.logits_index;
      if (task.output_position < slot.min_tokens) rows[i].banned_count = slot.banned_count;
    }
    FillTail(rows, batch_.samples.size(), DeviceSamplingRow{.logits_index = -1});
  }

  // A target's log-probability is that of a greedy row whose bias leaves no other choice.
  void PackScores(int score_group) {
    const std::span<DeviceSamplingRow> rows =
        Array<DeviceSamplingRow>(layout_.score_rows, shape_.scored_rows);
    const std::span<LogitBias> bias = Array<LogitBias>(layout_.score_bias, shape_.scored_rows);
    int32_t row = 0;
    for (const PromptLogprobTask& task : batch_.prompt_logprobs) {
      for (int32_t i = 0; i < task.count; ++i, ++row) {
        bias[row] = {batch_.prompt_targets[task.target_begin + i], kForcingBias};
        rows[row] = DeviceSamplingRow{.temperature = 0.0f,
                                      .num_top_logprobs = task.top_k,
                                      .logits_index = i % score_group,
                                      .logit_bias_begin = row,
                                      .logit_bias_count = 1};
      }
    }
  }

  void PackPageCopies() {
    const std::span<kernels::PageCopy> copies =
        Array<kernels::PageCopy>(layout_.page_copies, shape_.page_copies);
    for (size_t i = 0; i < copies.size(); ++i) {
      copies[i] = {batch_.page_copies[i].src, batch_.page_copies[i].dst};
    }
  }

 private:
  template <typename T>
  std::span<T> Array(size_t offset, int count) const {
    return {At<T>(block_, offset), static_cast<size_t>(count)};
  }

  template <typename T>
  static void Copy(const char* array, const std::vector<T>& from, std::span<T> to, T padding) {
    CheckFits(array, from.size(), to.size());
    std::copy(from.begin(), from.end(), to.begin());
    FillTail(to, from.size(), padding);
  }

  int32_t Token(int row, int32_t slot) const {
    if (batch_.token_ids[row] != kTokenFromSlot) return batch_.token_ids[row];
    const int32_t known = slots_[slot].known_token;
    return known != kTokenFromSlot ? known : -1 - slot;
  }

  const ForwardBatch& batch_;
  const StepShape& shape_;
  const StepLayout layout_;
  const std::span<const SlotState> slots_;
  std::byte* const block_;
};

}  // namespace

StepShape ShapeOf(const ForwardBatch& batch) {
  StepShape shape;
  shape.tokens = batch.num_tokens();
  shape.sequences = batch.num_sequences();
  shape.decode_sequences = LeadingDecodeSequences(batch);
  shape.logits_rows = static_cast<int>(batch.logits_rows.size());
  shape.samples = static_cast<int>(batch.samples.size());
  for (const PromptLogprobTask& task : batch.prompt_logprobs) shape.scored_rows += task.count;
  shape.page_copies = static_cast<int>(batch.page_copies.size());
  return shape;
}

StepShape DecodeShape(int bucket) {
  return {.tokens = bucket,
          .sequences = bucket,
          .decode_sequences = bucket,
          .logits_rows = bucket,
          .samples = bucket};
}

// Page copies come last: a decode graph's layout is the same with and without them.
StepLayout::StepLayout(const StepShape& shape) {
  size_t end = 0;
  const auto take = [&end](int count, size_t element_bytes) {
    const size_t begin = end;
    end += (count * element_bytes + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  };
  slot_mapping = take(shape.tokens, sizeof(int64_t));
  token_ids = take(shape.tokens, sizeof(int32_t));
  positions = take(shape.tokens, sizeof(int32_t));
  context_len = take(shape.sequences, sizeof(int32_t));
  prefill_query_start = take(shape.prefill_sequences() + 1, sizeof(int32_t));
  logits_rows = take(shape.logits_rows, sizeof(int32_t));
  sampling_rows = take(shape.samples, sizeof(DeviceSamplingRow));
  score_rows = take(shape.scored_rows, sizeof(DeviceSamplingRow));
  score_bias = take(shape.scored_rows, sizeof(LogitBias));
  page_copies = take(shape.page_copies, sizeof(kernels::PageCopy));
  size = end;
}

void PackStep(const ForwardBatch& batch, const StepShape& shape, bool all_logits, int score_group,
              std::span<const SlotState> slots, std::byte* block) {
  StepPacker packer(batch, shape, slots, block);
  packer.PackTokens();
  packer.PackSequences();
  packer.PackSamples(all_logits);
  packer.PackScores(score_group);
  packer.PackPageCopies();
}

void ScoreTargets(const ForwardBatch& batch, std::vector<int32_t>& targets) {
  targets.clear();
  for (const PromptLogprobTask& task : batch.prompt_logprobs) {
    const auto begin = batch.prompt_targets.begin() + task.target_begin;
    targets.insert(targets.end(), begin, begin + task.count);
  }
}

// A bias does not raise -inf: then the sampler has chosen another token, or none.
float LogprobOfTarget(const kernels::SampleResult& scored, int32_t target) {
  return scored.token == target ? scored.logprob : -std::numeric_limits<float>::infinity();
}

std::vector<int> DecodeBuckets(int max_num_seqs) {
  std::vector<int> buckets;
  for (int bucket = 1; buckets.empty() || buckets.back() < max_num_seqs;) {
    buckets.push_back(std::min(bucket, max_num_seqs));
    // 1, 2, 4, 8, then steps of 8, later of an eighth: at most an eighth of a step is padding.
    bucket += bucket < 8 ? bucket : std::max(8, bucket / 8 / 8 * 8);
  }
  return buckets;
}

}  // namespace parallax
