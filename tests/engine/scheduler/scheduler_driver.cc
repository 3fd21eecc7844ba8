#include "tests/engine/scheduler/scheduler_driver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/runner/batch_builder.h"

namespace parallax::testing {
namespace {

constexpr int32_t kEndToken = 0;  // one in kFakeVocab tokens
constexpr int32_t kMaxContext = 8 * kPageTokens;

}  // namespace

SchedulerDriver::SchedulerDriver(const DriverMode& mode, uint64_t seed)
    : random_(seed),
      mode_(mode),
      options_(RandomOptions(mode)),
      scheduler_(options_),
      model_(Limits()),
      page_use_(options_.num_pages, options_.sliding_window) {
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t> document(kMaxContext);
    std::ranges::generate(document, [&] { return Uniform(0, kFakeVocab - 1); });
    documents_.push_back(std::move(document));
  }
  arrival_chance_ = Chance(0.2) ? 0.02 : 0.6;
  cancel_chance_ = Chance(0.3) ? 0.0 : Chance(0.7) ? 0.003 : 0.05;
  max_groups_ = Uniform(3, 20);
}

int32_t SchedulerDriver::Uniform(int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random_() % static_cast<uint64_t>(high - low + 1));
}

bool SchedulerDriver::Chance(double probability) {
  return static_cast<double>(random_() >> 11) * 0x1p-53 < probability;
}

SchedulerOptions SchedulerDriver::RandomOptions(const DriverMode& mode) {
  SchedulerOptions options;
  options.num_pages = Uniform(4, 24);
  options.max_num_seqs = Uniform(1, 12);
  options.max_num_batched_tokens = options.max_num_seqs + Uniform(0, Chance(0.5) ? 40 : 300);
  options.max_prefill_chunk = Chance(0.5) ? 0 : Uniform(1, 150);
  options.max_mixed_prefill_tokens = Chance(0.5) ? 0 : Uniform(1, 150);
  options.max_context_tokens = kMaxContext;
  options.sliding_window = mode.sliding_window ? Uniform(1, 200) : 0;
  options.max_steps_in_flight = mode.steps_in_flight;
  options.enable_prefix_cache = mode.prefix_cache;
  options.weights_version = 7;
  return options;
}

RunnerLimits SchedulerDriver::Limits() const {
  return {.vocab_size = kFakeVocab,
          .max_context_tokens = kMaxContext,
          .sliding_window = options_.sliding_window,
          .max_num_seqs = options_.max_num_seqs,
          .max_num_batched_tokens = options_.max_num_batched_tokens,
          .num_pages = options_.num_pages,
          .max_steps_in_flight = options_.max_steps_in_flight};
}

// A prefix of a document, often of whole pages, sometimes with a tail of its own.
std::vector<int32_t> SchedulerDriver::RandomPrompt() {
  const std::vector<int32_t>& document = documents_[Uniform(0, 2)];
  const int32_t length = Chance(0.4) ? kPageTokens * Uniform(1, 3) : Uniform(1, 260);
  std::vector<int32_t> prompt(document.begin(), document.begin() + length);
  for (int32_t i = Chance(0.5) ? Uniform(0, 40) : 0; i > 0; --i) {
    prompt.push_back(Uniform(0, kFakeVocab - 1));
  }
  return prompt;
}

Request SchedulerDriver::RandomRequest() {
  Request request;
  const int32_t tenant = Chance(0.8) ? 0 : 1;
  request.id = absl::StrFormat("r%d", arrivals_);
  request.prompt = RandomPrompt();
  request.tenant = absl::StrFormat("tenant-%d", tenant);
  request.priority = Chance(0.7) ? 0 : Uniform(-1, 1);
  request.sampling.seed = FakeSeed(arrivals_, tenant);
  request.sampling.n = Chance(0.7) ? 1 : Uniform(2, 4);
  request.sampling.max_tokens = Chance(0.2) ? Uniform(1, 3) : Uniform(1, 120);
  if (Chance(0.1)) {
    request.sampling.prompt_logprobs = 0;
  }
  return request;
}

void SchedulerDriver::Arrive() {
  if (!arriving_ || static_cast<int32_t>(scheduler_.groups().size()) >= max_groups_ ||
      !Chance(arrival_chance_)) {
    return;
  }
  Request request = RandomRequest();
  if (!scheduler_.CheckFits(request).ok()) {
    return;
  }
  ++counts_.requests;
  added_choices_ += static_cast<uint64_t>(request.sampling.n);
  scheduler_.Add(std::move(request), ++arrivals_);
}

void SchedulerDriver::CancelSomething() {
  if (Chance(0.002)) {
    scheduler_.FlushPrefixCache();
  }
  if (scheduler_.groups().empty() || !Chance(cancel_chance_)) {
    return;
  }
  SequenceGroup* group =
      scheduler_.groups()[Uniform(0, static_cast<int32_t>(scheduler_.groups().size()) - 1)].get();
  if (Chance(0.7) || !group->forked) {
    CancelGroup(group);
    return;
  }
  Sequence* choice =
      group->sequences[Uniform(0, static_cast<int32_t>(group->sequences.size()) - 1)].get();
  if (choice->state != SequenceState::kFinished) {
    ++counts_.cancelled;
    scheduler_.Finish(choice);
    ++ended_choices_;
  }
}

void SchedulerDriver::CancelGroup(SequenceGroup* group) {
  counts_.cancelled += group->num_unfinished;
  ended_choices_ += static_cast<uint64_t>(group->num_unfinished);
  Chance(0.3) ? scheduler_.FinishGroupUncached(group) : scheduler_.FinishGroup(group);
}

std::string SchedulerDriver::LaunchStep() {
  StepSlot& step = steps_[launched_ % steps_.size()];
  LookBefore();
  const bool scheduled = scheduler_.Schedule(absl::UnixEpoch(), &step.scheduled);
  if (std::string broken = CheckScheduled(scheduled, step.scheduled); !broken.empty()) {
    return broken;
  }
  if (!scheduled) {
    return "";
  }
  ++launched_;
  ++counts_.steps;
  counts_.preemptions += step.scheduled.preemptions;
  counts_.page_copies += static_cast<int64_t>(step.scheduled.page_copies.size());
  counts_.prefix_hits += step.scheduled.prefix_hit_tokens > 0 ? 1 : 0;
  BuildForwardBatch(step.scheduled, &step.batch);
  counts_.tokens_from_slot += std::ranges::count(step.batch.token_ids, kTokenFromSlot);
  std::string broken = page_use_.OnScheduled(scheduler_, step.scheduled);
  return broken.empty() ? model_.Launch(&step.batch) : broken;
}

std::string SchedulerDriver::CollectStep() {
  StepResult result;
  if (std::string broken = model_.Collect(&result); !broken.empty()) {
    return broken;
  }
  if (std::string broken = DeliverTokens(result); !broken.empty()) {
    return broken;
  }
  CancelSomething();
  const StepSlot& step = steps_[collected_ % steps_.size()];
  scheduler_.CompleteStep(step.scheduled);
  page_use_.OnCompleted(step.scheduled.step_id);
  ++collected_;
  RemoveReleased();
  return "";
}

std::string SchedulerDriver::DeliverTokens(const StepResult& result) {
  const ScheduledBatch& scheduled = steps_[collected_ % steps_.size()].scheduled;
  for (const ScheduledSequence& entry : scheduled.sequences) {
    int32_t& scored = targets_.try_emplace(entry.sequence->group, 1).first->second;
    if (entry.num_targets > 0 && entry.first_target != scored) {
      return "a prompt token is scored twice or not at all";
    }
    scored += entry.num_targets;
  }
  for (size_t i = 0; i < scheduled.samples.size(); ++i) {
    Sequence* sequence = scheduled.samples[i].sequence;
    counts_.forked_samples += scheduled.samples[i].forked ? 1 : 0;
    if (sequence->state == SequenceState::kFinished) {
      continue;
    }
    if (scheduled.samples[i].output_position != sequence->num_generated()) {
      return "a token is delivered out of place";
    }
    ++counts_.tokens;
    const int32_t token = result.samples[i].token;
    scheduler_.AppendToken(sequence, token);
    if (token == kEndToken ||
        sequence->num_generated() == sequence->group->request.sampling.max_tokens) {
      if (std::string broken = EndChoice(sequence, /*complete=*/true); !broken.empty()) {
        return broken;
      }
    }
  }
  return "";
}

std::string SchedulerDriver::EndChoice(Sequence* sequence, bool complete) {
  const Request& request = sequence->group->request;
  const std::vector<int32_t> expected = ExpectedTokens(request.sampling.seed, request.prompt,
                                                       sequence->choice, sequence->num_generated());
  const std::span<const int32_t> tokens = sequence->tokens;
  if (!std::ranges::equal(tokens.first(request.prompt.size()), request.prompt) ||
      !std::ranges::equal(tokens.subspan(request.prompt.size()), expected)) {
    return absl::StrFormat("%s choice %d did not generate its tokens", request.id,
                           sequence->choice);
  }
  if (complete && request.sampling.prompt_logprobs.has_value() &&
      targets_[sequence->group] != static_cast<int32_t>(request.prompt.size())) {
    return absl::StrFormat("%s ends with %d prompt tokens scored", request.id,
                           targets_[sequence->group]);
  }
  scheduler_.Finish(sequence);
  ++ended_choices_;
  return "";
}

void SchedulerDriver::RemoveReleased() {
  for (size_t i = scheduler_.groups().size(); i-- > 0;) {
    SequenceGroup* group = scheduler_.groups()[i].get();
    if (scheduler_.IsReleased(*group)) {
      targets_.erase(group);
      scheduler_.Remove(group);
    }
  }
}

std::string SchedulerDriver::Iterate() {
  Arrive();
  CancelSomething();
  RemoveReleased();
  while (in_flight() < options_.max_steps_in_flight && (in_flight() == 0 || Chance(0.8))) {
    const uint64_t before = launched_;
    if (std::string broken = LaunchStep(); !broken.empty() || launched_ == before) {
      if (!broken.empty()) return broken;
      break;
    }
    CancelSomething();
    if (std::string broken = scheduler_.CheckInvariants(); !broken.empty()) {
      return "after Schedule: " + broken;
    }
  }
  if (in_flight() > 0) {
    if (std::string broken = CollectStep(); !broken.empty()) return broken;
  }
  std::string broken = scheduler_.CheckInvariants();
  return broken.empty() ? "" : "after CompleteStep: " + broken;
}

std::string SchedulerDriver::Run(int64_t steps, DriverCounts* counts) {
  std::string broken;
  // The second bound is met where hardly a request of this seed fits.
  for (int64_t i = 0; broken.empty() && counts_.steps < steps && i < 50 * steps; ++i) {
    broken = Iterate();
  }
  arriving_ = false;
  const int64_t most = counts_.steps + 100 * int64_t{kMaxContext} * max_groups_;
  while (broken.empty() && (HasWork() || in_flight() > 0)) {
    broken = counts_.steps < most ? Iterate() : "the requests do not come to an end";
  }
  RemoveReleased();
  if (broken.empty()) {
    broken = CheckEnd();
  }
  counts->steps += counts_.steps;
  counts->tokens += counts_.tokens;
  counts->requests += counts_.requests;
  counts->cancelled += counts_.cancelled;
  counts->preemptions += counts_.preemptions;
  counts->page_copies += counts_.page_copies;
  counts->prefix_hits += counts_.prefix_hits;
  counts->forked_samples += counts_.forked_samples;
  counts->tokens_from_slot += counts_.tokens_from_slot;
  counts->sat_out += counts_.sat_out;
  return broken;
}

}  // namespace parallax::testing
