#include "tests/engine/fake_model_runner.h"

#include "absl/strings/str_cat.h"
#include "engine/runner/batch_validation.h"

namespace parallax {

void FakeModel::Script(uint64_t seed, std::vector<int32_t> tokens) {
  MutexLock lock(&mutex_);
  scripts_[seed] = std::move(tokens);
}

void FakeModel::PoisonSample(uint64_t seed, int32_t position) {
  MutexLock lock(&mutex_);
  poisoned_samples_.emplace(seed, position);
}

void FakeModel::BanSample(uint64_t seed, int32_t position) {
  MutexLock lock(&mutex_);
  banned_samples_.emplace(seed, position);
}

void FakeModel::PoisonPrompt(uint64_t seed) {
  MutexLock lock(&mutex_);
  poisoned_prompts_.insert(seed);
}

void FakeModel::FailLaunch(int64_t step) {
  MutexLock lock(&mutex_);
  fail_launch_ = step;
}

void FakeModel::FailCollect(int64_t step) {
  MutexLock lock(&mutex_);
  fail_collect_ = step;
}

void FakeModel::Refuse(uint64_t seed) {
  MutexLock lock(&mutex_);
  refused_.insert(seed);
}

void FakeModel::Hold() {
  MutexLock lock(&mutex_);
  held_ = true;
  allowed_ = 0;
}

void FakeModel::HoldInLaunch() {
  MutexLock lock(&mutex_);
  held_ = held_in_launch_ = true;
  allowed_ = 0;
}

void FakeModel::Allow(int64_t steps) {
  MutexLock lock(&mutex_);
  allowed_ = steps;
  waiting_ = false;
  changed_.NotifyAll();
}

void FakeModel::AwaitAllowed() {
  while (held_ && allowed_ == 0) {
    waiting_ = true;
    changed_.NotifyAll();
    changed_.Wait(&mutex_);
  }
  waiting_ = false;
  if (held_) --allowed_;
}

void FakeModel::AwaitHeld() {
  MutexLock lock(&mutex_);
  while (!waiting_) changed_.Wait(&mutex_);
}

std::vector<FakeModel::Step> FakeModel::steps() const {
  MutexLock lock(&mutex_);
  return steps_;
}

std::string FakeModel::violation() const {
  MutexLock lock(&mutex_);
  return violation_;
}

int32_t FakeModel::TokenAt(uint64_t seed, int32_t choice, int32_t position, int32_t vocab_size) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(choice) * 0xbf58476d1ce4e5b9u +
               static_cast<uint64_t>(position);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return kFirstToken + static_cast<int32_t>((x >> 33) % (vocab_size - kFirstToken));
}

FakeModelRunner::FakeModelRunner(const RunnerLimits& limits, std::shared_ptr<FakeModel> model)
    : limits_(limits),
      model_(std::move(model)),
      slots_(limits.max_num_seqs),
      results_(limits.max_steps_in_flight + 2) {
  description_.name = "fake";
}

absl::Status FakeModelRunner::Launch(const ForwardBatch& batch) {
  std::string wrong(ValidateBatch(batch, limits_).message());
  if (wrong.empty()) wrong = UpdateSlots(batch);
  if (wrong.empty()) wrong = CheckRows(batch);
  MutexLock lock(&model_->mutex_);
  if (!wrong.empty()) {
    if (model_->violation_.empty()) model_->violation_ = wrong;
    return absl::InternalError(wrong);
  }
  if (launched_ == model_->fail_launch_) return absl::InternalError("launch failed as told");
  if (IsRefused(batch)) return absl::InvalidArgumentError("refused as told");
  if (model_->held_in_launch_) model_->AwaitAllowed();
  StepResult& result = results_[launched_++ % results_.size()];
  result.Clear();
  result.step_id = batch.step_id;
  model_->steps_.push_back({.rows = batch.num_tokens(), .sampled_seeds = {}});
  ScorePrompts(batch, &result);
  Sample(batch, &result);
  return absl::OkStatus();
}

absl::StatusOr<const StepResult*> FakeModelRunner::Collect() {
  MutexLock lock(&model_->mutex_);
  if (launched_ == collected_) return absl::FailedPreconditionError("no step is in flight");
  if (!model_->held_in_launch_) model_->AwaitAllowed();
  if (collected_ == model_->fail_collect_) return absl::InternalError("collect failed as told");
  return &results_[collected_++ % results_.size()];
}

std::string FakeModelRunner::UpdateSlots(const ForwardBatch& batch) {
  for (const int32_t slot : batch.detached_slots) {
    if (slots_[slot].params == nullptr) return absl::StrCat("slot ", slot, " detached twice");
    slots_[slot] = {};
  }
  for (const SlotAttach& attach : batch.attached_slots) {
    Slot& slot = slots_[attach.slot];
    if (slot.params != nullptr) return absl::StrCat("slot ", attach.slot, " attached twice");
    slot.params = attach.params;
    slot.choice = attach.choice_index;
    slot.history.assign(attach.prompt.begin(), attach.prompt.end());
    slot.history.insert(slot.history.end(), attach.generated.begin(), attach.generated.end());
  }
  return "";
}

// Each row must hold the token that its sequence has at the row's position.
std::string FakeModelRunner::CheckRows(const ForwardBatch& batch) const {
  for (int s = 0; s < batch.num_sequences(); ++s) {
    const Slot& slot = slots_[batch.sequence_slots[s]];
    if (slot.params == nullptr) return "a sequence's slot is not attached";
    const auto known = static_cast<int32_t>(slot.history.size());
    for (int32_t row = batch.query_start[s]; row < batch.query_start[s + 1]; ++row) {
      const int32_t position = batch.positions[row];
      const int32_t token = batch.token_ids[row];
      if (position >= known) return absl::StrCat("position ", position, " of ", known);
      const bool from_slot = token == kTokenFromSlot && position == known - 1;
      if (!from_slot && token != slot.history[position]) {
        return absl::StrCat("token ", token, " at position ", position, " should be ",
                            slot.history[position]);
      }
    }
  }
  return "";
}

// Called with the model's lock held by Launch.
bool FakeModelRunner::IsRefused(const ForwardBatch& batch) const
    PARALLAX_NO_THREAD_SAFETY_ANALYSIS {
  for (const int32_t slot : batch.sequence_slots) {
    if (model_->refused_.contains(slots_[slot].params->seed)) return true;
  }
  return false;
}

// Called with the model's lock held by Launch.
void FakeModelRunner::Sample(const ForwardBatch& batch,
                             StepResult* result) PARALLAX_NO_THREAD_SAFETY_ANALYSIS {
  for (const SampleTask& task : batch.samples) {
    Slot& slot = slots_[task.slot];
    const uint64_t seed = slot.params->seed;
    int32_t token = FakeModel::TokenAt(seed, slot.choice, task.output_position, limits_.vocab_size);
    const auto script = model_->scripts_.find(seed);
    if (slot.choice == 0 && script != model_->scripts_.end() &&
        task.output_position < static_cast<int32_t>(script->second.size())) {
      token = script->second[task.output_position];
    }
    slot.history.push_back(token);
    const int32_t top_count = slot.params->logprobs.value_or(0);
    result->samples.push_back(
        {.token = token,
         .nan_logits = model_->poisoned_samples_.contains({seed, task.output_position}),
         .no_token_left = model_->banned_samples_.contains({seed, task.output_position}),
         .logprob = FakeModel::LogprobOf(token),
         .top_begin = AppendTop(token, top_count, result),
         .top_count = top_count});
    model_->steps_.back().sampled_seeds.push_back(seed);
  }
}

// Called with the model's lock held by Launch.
void FakeModelRunner::ScorePrompts(const ForwardBatch& batch,
                                   StepResult* result) PARALLAX_NO_THREAD_SAFETY_ANALYSIS {
  for (const PromptLogprobTask& task : batch.prompt_logprobs) {
    const bool poisoned = model_->poisoned_prompts_.contains(slots_[task.slot].params->seed);
    for (int32_t i = 0; i < task.count; ++i) {
      const int32_t target = batch.prompt_targets[task.target_begin + i];
      result->prompt_logprobs.push_back({.logprob = FakeModel::LogprobOf(target),
                                         .top_begin = AppendTop(target, task.top_k, result),
                                         .top_count = task.top_k,
                                         .nan_logits = poisoned});
    }
  }
}

int32_t FakeModelRunner::AppendTop(int32_t first_id, int32_t count, StepResult* result) const {
  const auto begin = static_cast<int32_t>(result->top_ids.size());
  for (int32_t i = 0; i < count; ++i) {
    const int32_t id = (first_id + i) % limits_.vocab_size;
    result->top_ids.push_back(id);
    result->top_logprobs.push_back(FakeModel::LogprobOf(id));
  }
  return begin;
}

}  // namespace parallax
