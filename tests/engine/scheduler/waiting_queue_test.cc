#include "engine/scheduler/waiting_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

namespace parallax {
namespace {

class WaitingQueueTest : public ::testing::Test {
 protected:
  Sequence* Make(int32_t priority, uint64_t arrival) {
    auto group = std::make_unique<SequenceGroup>();
    group->request.priority = priority;
    group->arrival = arrival;
    group->sequences.push_back(std::make_unique<Sequence>());
    group->sequences.front()->group = group.get();
    groups_.push_back(std::move(group));
    return groups_.back()->sequences.front().get();
  }

  WaitingQueue queue_;
  std::vector<std::unique_ptr<SequenceGroup>> groups_;
};

TEST_F(WaitingQueueTest, OrdersByPriorityThenArrival) {
  EXPECT_EQ(queue_.Front(), nullptr);
  Sequence* late = Make(Request::kMaxPriority, 1);
  Sequence* second = Make(0, 3);
  Sequence* first = Make(0, 2);
  Sequence* urgent = Make(Request::kMinPriority, 9);
  for (Sequence* sequence : {late, second, first, urgent}) queue_.Insert(sequence);
  for (Sequence* expected : {urgent, first, second, late}) {
    ASSERT_EQ(queue_.Front(), expected);
    queue_.Remove(expected);
  }
  EXPECT_TRUE(queue_.empty());
}

TEST_F(WaitingQueueTest, RandomInsertionsAndRemovalsKeepTheOrder) {
  constexpr uint64_t kSeed = 4;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  std::vector<Sequence*> out, in;
  for (uint64_t i = 0; i < 60; ++i) out.push_back(Make(static_cast<int32_t>(random() % 4) - 1, i));
  for (int i = 0; i < 20'000; ++i) {
    std::vector<Sequence*>& from = random() % 2 == 0 || in.empty() ? out : in;
    if (from.empty()) continue;
    std::swap(from[random() % from.size()], from.back());
    Sequence* moved = from.back();
    from.pop_back();
    if (&from == &out) {
      queue_.Insert(moved);
      in.push_back(moved);
    } else {
      queue_.Remove(moved);
      out.push_back(moved);
    }
    ASSERT_EQ(queue_.size(), static_cast<int32_t>(in.size()));
    const auto best = std::min_element(in.begin(), in.end(),
                                       [](Sequence* a, Sequence* b) { return RunsBefore(*a, *b); });
    ASSERT_EQ(queue_.Front(), in.empty() ? nullptr : *best) << "operation " << i;
  }
}

TEST_F(WaitingQueueTest, DeathOnMisuse) {
  Sequence* sequence = Make(0, 1);
  EXPECT_DEATH(queue_.Remove(sequence), "only a queued sequence");
  queue_.Insert(sequence);
  EXPECT_DEATH(queue_.Insert(sequence), "queued once");
}

TEST(SequenceDeathTest, AllowsOnlyTheTransitionsOfItsLife) {
  Sequence sequence;
  sequence.TransitionTo(SequenceState::kForking);
  sequence.TransitionTo(SequenceState::kRunning);
  EXPECT_DEATH(sequence.TransitionTo(SequenceState::kForking), "state transition");
  sequence.TransitionTo(SequenceState::kWaiting);
  sequence.TransitionTo(SequenceState::kFinished);
  EXPECT_DEATH(sequence.TransitionTo(SequenceState::kWaiting), "state transition");
}

}  // namespace
}  // namespace parallax
