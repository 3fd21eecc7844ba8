#include "engine/runner/null_model_runner.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "absl/strings/str_cat.h"
#include "engine/runner/batch_validation.h"

namespace parallax {

namespace {

absl::Status CheckRange(const char* option, int32_t value, int32_t low, int32_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, " = ", value, ": must be from ", low, " to ", high));
}

// The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
uint64_t Mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NullModelRunner>> NullModelRunner::Create(
    const NullModelRunnerOptions& options) {
  for (const absl::Status& status :
       {CheckRange("vocab_size", options.vocab_size, 1, INT32_MAX),
        CheckRange("first_token", options.first_token, 0, options.vocab_size - 1),
        CheckRange("max_context_tokens", options.max_context_tokens, 1, kMostContextTokens),
        CheckRange("sliding_window", options.sliding_window, 0, kMostContextTokens),
        CheckRange("max_num_seqs", options.max_num_seqs, 1, 1 << 20),
        CheckRange("max_num_batched_tokens", options.max_num_batched_tokens, 1, kMostContextTokens),
        CheckRange("num_pages", options.num_pages, 1, kMostPages),
        CheckRange("max_steps_in_flight", options.max_steps_in_flight, 1, 16)}) {
    if (!status.ok()) return status;
  }
  if (options.step_time < std::chrono::seconds(0) || options.step_time > std::chrono::hours(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("step_time = ", options.step_time.count(), " ns: must be from 0 to an hour"));
  }
  return std::unique_ptr<NullModelRunner>(new NullModelRunner(options));
}

NullModelRunner::NullModelRunner(const NullModelRunnerOptions& options)
    : first_token_(options.first_token),
      step_time_(options.step_time),
      logprob_(-std::log(static_cast<float>(options.vocab_size))),
      slots_(options.max_num_seqs),
      steps_(options.max_steps_in_flight + 2) {
  limits_.vocab_size = options.vocab_size;
  limits_.max_context_tokens = options.max_context_tokens;
  limits_.sliding_window = options.sliding_window;
  limits_.max_num_seqs = options.max_num_seqs;
  limits_.max_num_batched_tokens = options.max_num_batched_tokens;
  limits_.num_pages = options.num_pages;
  limits_.max_steps_in_flight = options.max_steps_in_flight;
  description_.name = "null";
  description_.architecture = "null";
  description_.weight_dtype = "none";
  description_.kv_dtype = "none";
  description_.device = "none";
}

int32_t NullModelRunner::TokenAt(uint64_t seed, int32_t choice_index,
                                 int32_t output_position) const {
  const uint64_t counter =
      static_cast<uint64_t>(choice_index) << 32 | static_cast<uint32_t>(output_position);
  const uint64_t random = Mix(Mix(seed + 0x9e3779b97f4a7c15u) ^ counter) >> 32;
  const auto range = static_cast<uint64_t>(limits_.vocab_size - first_token_);
  return first_token_ + static_cast<int32_t>(random * range >> 32);
}

int32_t NullModelRunner::AppendTop(int32_t top_k, StepResult& result) const {
  const auto begin = static_cast<int32_t>(result.top_ids.size());
  for (int32_t id = 0; id < top_k; ++id) {
    result.top_ids.push_back(id);
    result.top_logprobs.push_back(logprob_);
  }
  return begin;
}

absl::Status NullModelRunner::Launch(const ForwardBatch& batch) {
  if (launched_ - collected_ == static_cast<uint64_t>(limits_.max_steps_in_flight)) {
    return absl::FailedPreconditionError(
        absl::StrCat("more than ", limits_.max_steps_in_flight, " steps in flight"));
  }
  if (auto status = ValidateBatch(batch, limits_); !status.ok()) return status;
  for (const int32_t slot : batch.detached_slots) slots_[slot].params = nullptr;
  for (const SlotAttach& attach : batch.attached_slots) {
    slots_[attach.slot] = {attach.params, attach.choice_index};
  }
  Step& step = steps_[launched_ % steps_.size()];
  step.end = last_end_ = std::max(std::chrono::steady_clock::now(), last_end_) + step_time_;
  StepResult& result = step.result;
  result.Clear();
  result.step_id = batch.step_id;
  for (const PromptLogprobTask& task : batch.prompt_logprobs) {
    const int32_t top_count = std::min(task.top_k, limits_.vocab_size);
    for (int32_t i = 0; i < task.count; ++i) {
      result.prompt_logprobs.push_back(
          {.logprob = logprob_, .top_begin = AppendTop(top_count, result), .top_count = top_count});
    }
  }
  for (const SampleTask& task : batch.samples) {
    const Slot& slot = slots_[task.slot];
    if (slot.params == nullptr) {
      return absl::InternalError(absl::StrCat("sampling slot ", task.slot, " is not attached"));
    }
    const int32_t top_count = std::min(slot.params->logprobs.value_or(0), limits_.vocab_size);
    result.samples.push_back(
        {.token = TokenAt(slot.params->seed, slot.choice_index, task.output_position),
         .logprob = logprob_,
         .top_begin = AppendTop(top_count, result),
         .top_count = top_count});
  }
  ++launched_;
  return absl::OkStatus();
}

absl::StatusOr<const StepResult*> NullModelRunner::Collect() {
  if (launched_ == collected_) return absl::FailedPreconditionError("no step is in flight");
  const Step& step = steps_[collected_++ % steps_.size()];
  std::this_thread::sleep_until(step.end);
  return &step.result;
}

}  // namespace parallax
