#include "tests/engine/runner/random_steps.h"

#include <algorithm>

namespace parallax::testing {

RandomSteps::RandomSteps(uint64_t seed, int max_slots, int vocab)
    : random_(seed),
      vocab_(vocab),
      max_chunk_(512 / max_slots),
      slots_(max_slots),
      freed_(max_slots) {}

int RandomSteps::Uniform(int low, int high) {
  return low + static_cast<int>(random_() % static_cast<uint64_t>(high - low + 1));
}

SamplingParams RandomSteps::RandomParams() {
  SamplingParams params;
  params.seed = random_();
  params.temperature = Chance(0.5) ? 0.0f : 0.9f;
  if (Chance(0.3)) params.top_k = 20;
  if (Chance(0.3)) params.repetition_penalty = 1.2f;
  if (Chance(0.3)) params.frequency_penalty = 0.3f;
  if (Chance(0.3)) params.logit_bias = {{Uniform(0, vocab_ - 1), -20.0f}};
  if (Chance(0.3)) {
    params.min_tokens = 4;
    params.stop_token_ids = {Uniform(0, vocab_ - 1)};
  }
  if (Chance(0.3)) params.logprobs = 2;
  return params;
}

RandomSteps::Member& RandomSteps::Arrive() {
  Member& member = members_.emplace_back();
  const int length = Chance(0.2) ? 1 : Uniform(2, 100);
  for (int i = 0; i < length; ++i) member.sequence.prompt.push_back(Uniform(0, vocab_ - 1));
  member.sequence.params = RandomParams();
  member.output = Uniform(1, 24);
  return member;
}

int RandomSteps::FreeSlot() {
  return static_cast<int>(std::find(slots_.begin(), slots_.end(), nullptr) - slots_.begin());
}

void RandomSteps::Leave(Member& member, RunnerDriver& driver) {
  slots_[member.sequence.slot] = nullptr;
  freed_[member.sequence.slot] = true;
  driver.Detach(member.sequence);
  member.done = true;
}

// Its tokens are all known to the host when the step in flight has been collected.
void RandomSteps::Preempt(Member& member, RunnerDriver& driver) {
  Leave(member, driver);
  member.done = false;
  member.waits_until = step_ + 2;
  member.sequence.computed = 0;
  member.sequence.pages.clear();
  ++counts_.preemptions;
}

void RandomSteps::Enter(RunnerDriver& driver) {
  const auto waits = [&](const Member& member) {
    return member.sequence.slot < 0 && !member.done && !member.is_fork &&
           step_ >= member.waits_until;
  };
  for (int tries = Uniform(0, 2); tries > 0; --tries) {
    const int slot = FreeSlot();
    if (slot == static_cast<int>(slots_.size())) return;
    const auto waiting = std::find_if(members_.begin(), members_.end(), waits);
    Member& member = waiting != members_.end() ? *waiting : Arrive();
    if (freed_[slot]) ++counts_.slots_taken_again;
    slots_[slot] = &member;
    driver.Attach(member.sequence, slot);
  }
}

// A second choice decodes from the step after its parent's prompt was computed.
void RandomSteps::TakePagesOfParents(RunnerDriver& driver) {
  for (Member* parent : slots_) {
    if (parent == nullptr || parent->fork == nullptr || !parent->fork->forks_next_step) continue;
    Member& fork = *parent->fork;
    fork.forks_next_step = false;
    fork.sequence.computed = parent->sequence.computed;
    fork.sequence.pages = parent->sequence.pages;
    if (fork.sequence.computed % kPageTokens == 0) continue;
    fork.sequence.pages.back() = driver.NewPage();
    driver.batch().page_copies.push_back(
        {parent->sequence.pages.back(), fork.sequence.pages.back()});
    ++counts_.page_copies;
  }
}

void RandomSteps::AddRows(Member& member, RunnerDriver& driver) {
  DrivenSequence& sequence = member.sequence;
  const int left = sequence.length() - sequence.computed;
  const int count = left == 1 ? 1 : std::min(left, Uniform(1, max_chunk_));
  driver.Add(sequence, count);
  const bool first_token = member.Sampled() == 1 && count == left;
  const int slot = FreeSlot();
  if (!first_token || member.is_fork || slot == static_cast<int>(slots_.size()) || !Chance(0.3)) {
    return;
  }
  Member& fork = members_.emplace_back();
  fork.sequence.prompt = sequence.prompt;
  fork.sequence.params = sequence.params;
  fork.sequence.choice_index = 1;
  fork.output = Uniform(1, 24);
  fork.is_fork = true;
  fork.forks_next_step = true;
  member.fork = &fork;
  slots_[slot] = &fork;
  driver.Attach(fork.sequence, slot);
  driver.Fork({&fork.sequence});
  ++counts_.forks;
}

void RandomSteps::BuildStep(RunnerDriver& driver) {
  std::fill(freed_.begin(), freed_.end(), false);
  TakePagesOfParents(driver);
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    Member* const member = slots_[slot];
    if (member == nullptr) continue;
    if (member->Sampled() >= member->output) {
      Leave(*member, driver);
    } else if (!member->is_fork && Chance(0.02)) {
      Preempt(*member, driver);
    }
  }
  Enter(driver);
  const std::vector<Member*> present = slots_;  // a fork joins in with the next step
  bool decodes = false;
  bool prefills = false;
  for (const bool prefill : {false, true}) {
    for (Member* member : present) {
      if (member == nullptr || Chance(0.05)) continue;
      if ((member->sequence.length() - member->sequence.computed > 1) != prefill) continue;
      AddRows(*member, driver);
      (prefill ? prefills : decodes) = true;
    }
  }
  if (decodes && !prefills) ++counts_.decode_steps;
  if (decodes && prefills) ++counts_.mixed_steps;
}

void RandomSteps::Run(ModelRunner& runner, int steps, int in_flight) {
  RunnerDriver driver(runner);
  for (step_ = 0; step_ < steps; ++step_) {
    BuildStep(driver);
    driver.Launch();
    if (driver.in_flight() == in_flight) driver.Collect();
  }
  while (driver.in_flight() > 0) driver.Collect();
  for (Member* member : slots_) {
    if (member != nullptr) driver.Detach(member->sequence);
  }
  driver.Step();
}

std::vector<std::vector<SampledToken>> RandomSteps::samples() const {
  std::vector<std::vector<SampledToken>> samples;
  for (const Member& member : members_) samples.push_back(member.sequence.samples);
  return samples;
}

}  // namespace parallax::testing
