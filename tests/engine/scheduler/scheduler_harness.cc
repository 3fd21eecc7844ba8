#include "tests/engine/scheduler/scheduler_harness.h"

#include <numeric>
#include <string>
#include <utility>

namespace parallax::testing {

std::vector<int32_t> Tokens(int32_t count, int32_t first) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

SchedulerOptions SchedulerHarness::Options() {
  SchedulerOptions options;
  options.num_pages = 64;
  options.max_num_seqs = 8;
  options.max_num_batched_tokens = 512;
  options.max_context_tokens = 4096;
  return options;
}

Request SchedulerHarness::MakeRequest(std::vector<int32_t> prompt, int32_t max_tokens, int32_t n) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.max_tokens = max_tokens;
  request.sampling.n = n;
  return request;
}

SequenceGroup* SchedulerHarness::Add(Request request) {
  EXPECT_TRUE(scheduler_.CheckFits(request).ok());
  request.id = std::to_string(++arrivals_);
  SequenceGroup* group = scheduler_.Add(std::move(request), arrivals_);
  CheckInvariants();
  return group;
}

const ScheduledBatch* SchedulerHarness::Schedule() {
  ScheduledBatch* batch = &batches_[planned_ % 3];
  std::vector<const Sequence*> running;
  for (const auto& group : scheduler_.groups()) {
    for (const auto& sequence : group->sequences) {
      if (sequence->state == SequenceState::kRunning) running.push_back(sequence.get());
    }
  }
  const bool scheduled = scheduler_.Schedule(absl::UnixEpoch(), batch);
  for (const Sequence* sequence : running) {
    preemptions_[sequence] += sequence->state == SequenceState::kWaiting ? 1 : 0;
  }
  if (!scheduled) {
    EXPECT_TRUE(batch->sequences.empty());
    return nullptr;
  }
  ++planned_;
  in_flight_.push_back(batch);
  CheckInvariants();
  return batch;
}

void SchedulerHarness::Complete() {
  ASSERT_FALSE(in_flight_.empty());
  const ScheduledBatch& batch = *in_flight_.front();
  in_flight_.pop_front();
  for (const ScheduledSample& sample : batch.samples) {
    if (sample.sequence->state == SequenceState::kFinished) {
      continue;
    }
    scheduler_.AppendToken(sample.sequence, ++sampled_);
    const int32_t most = sample.sequence->group->request.sampling.max_tokens;
    if (sample.sequence->num_generated() == most) {
      scheduler_.Finish(sample.sequence);
    }
  }
  scheduler_.CompleteStep(batch);
  CheckInvariants();
}

const ScheduledBatch& SchedulerHarness::Step() {
  const ScheduledBatch* batch = Schedule();
  EXPECT_NE(batch, nullptr);
  static const ScheduledBatch kNothing;
  if (batch == nullptr) {
    return kNothing;
  }
  Complete();
  return *batch;
}

int SchedulerHarness::RunToEnd(SequenceGroup* group) {
  int steps = 0;
  for (; group->num_unfinished > 0 && !::testing::Test::HasFailure(); ++steps) {
    Step();
  }
  return steps;
}

void SchedulerHarness::RemoveReleased() {
  for (size_t i = scheduler_.groups().size(); i-- > 0;) {
    if (scheduler_.IsReleased(*scheduler_.groups()[i])) {
      scheduler_.Remove(scheduler_.groups()[i].get());
    }
  }
  CheckInvariants();
}

void SchedulerHarness::CheckInvariants() { EXPECT_EQ(scheduler_.CheckInvariants(), ""); }

const ScheduledSequence* EntryOf(const ScheduledBatch& batch, const Sequence& sequence) {
  for (const ScheduledSequence& entry : batch.sequences) {
    if (entry.sequence == &sequence) {
      return &entry;
    }
  }
  return nullptr;
}

}  // namespace parallax::testing
