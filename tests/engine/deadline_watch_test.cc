// Which requests run out of time when, and which are never given up too early.
#include "engine/deadline_watch.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace parallax {
namespace {

constexpr int32_t kChunk = 100;
const absl::Time kStart = absl::FromUnixSeconds(1000);

class DeadlineWatchTest : public ::testing::Test {
 protected:
  LiveRequest* Add(DeadlineWatch* watch, int32_t prompt_tokens, absl::Duration deadline,
                   absl::Duration timeout = absl::InfiniteDuration()) {
    groups.push_back(std::make_unique<SequenceGroup>());
    Request& request = groups.back()->request;
    request.prompt.assign(prompt_tokens, 1);
    request.deadline = kStart + deadline;
    request.timeout = timeout;
    requests.push_back(std::make_unique<LiveRequest>(Request(), nullptr, nullptr, kStart));
    requests.back()->group = groups.back().get();
    watch->Add(requests.back().get());
    return requests.back().get();
  }

  static void Measure(DeadlineWatch* watch, absl::Duration fastest) {
    for (int i = 0; i < 8; ++i) watch->NoteStep(kChunk, fastest + absl::Milliseconds(i));
  }

  std::vector<std::unique_ptr<SequenceGroup>> groups;
  std::vector<std::unique_ptr<LiveRequest>> requests;
};

TEST_F(DeadlineWatchTest, ReportsEachMomentOnceInOrder) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/true);
  LiveRequest* late = Add(&watch, 10, absl::Seconds(2));
  LiveRequest* early = Add(&watch, 10, absl::Seconds(1), absl::Seconds(3));
  Add(&watch, 10, absl::InfiniteDuration());
  EXPECT_FALSE(watch.Next(kStart + absl::Milliseconds(999)).has_value());
  const absl::Time end = kStart + absl::Seconds(10);
  EXPECT_EQ(watch.Next(end)->request, early);
  EXPECT_EQ(watch.Next(end)->request, late);
  const auto timeout = watch.Next(end);
  EXPECT_EQ(timeout->request, early);
  EXPECT_EQ(timeout->kind, DeadlineWatch::Kind::kTimeout);
  EXPECT_FALSE(watch.Next(end).has_value());
}

TEST_F(DeadlineWatchTest, RemovedRequestsAreForgotten) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/false);
  Measure(&watch, absl::Milliseconds(10));
  watch.Remove(Add(&watch, 1000, absl::Seconds(1), absl::Seconds(1)));
  EXPECT_FALSE(watch.Next(absl::InfiniteFuture()).has_value());
}

TEST_F(DeadlineWatchTest, GivesUpAQueuedPromptThatTakesTooLong) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/false);
  Measure(&watch, absl::Milliseconds(10));
  LiveRequest* request = Add(&watch, 10 * kChunk + 99, absl::Seconds(1));
  // Ten chunks of 10 ms; the 99 rows left over are counted as nothing.
  EXPECT_FALSE(watch.Next(kStart + absl::Milliseconds(899)).has_value());
  const auto expiry = watch.Next(kStart + absl::Milliseconds(901));
  ASSERT_TRUE(expiry.has_value());
  EXPECT_EQ(expiry->request, request);
  EXPECT_EQ(expiry->kind, DeadlineWatch::Kind::kHopeless);
}

TEST_F(DeadlineWatchTest, NeverGivesUpWhatRuns) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/false);
  Measure(&watch, absl::Milliseconds(10));
  Add(&watch, 10 * kChunk, absl::Seconds(1))->queued = false;
  EXPECT_FALSE(watch.Next(kStart + absl::Milliseconds(950)).has_value());
  EXPECT_EQ(watch.Next(kStart + absl::Seconds(1))->kind, DeadlineWatch::Kind::kDeadline);
}

TEST_F(DeadlineWatchTest, AFasterStepGivesMoreTime) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/false);
  Measure(&watch, absl::Milliseconds(10));
  Add(&watch, 10 * kChunk, absl::Seconds(1));
  watch.NoteStep(kChunk / 2, absl::Milliseconds(2));
  EXPECT_FALSE(watch.Next(kStart + absl::Milliseconds(950)).has_value());
  EXPECT_TRUE(watch.Next(kStart + absl::Milliseconds(981)).has_value());
}

TEST_F(DeadlineWatchTest, HasNoBoundWithoutMeasurementsOrWithPrefixHits) {
  DeadlineWatch unmeasured(kChunk, /*prefix_cache=*/false);
  // Too small and too large to speak for a chunk; too few of the right size.
  for (int i = 0; i < 20; ++i) unmeasured.NoteStep(kChunk / 2 - 1, absl::Seconds(1));
  for (int i = 0; i < 20; ++i) unmeasured.NoteStep(kChunk + 1, absl::Seconds(1));
  for (int i = 0; i < 7; ++i) unmeasured.NoteStep(kChunk, absl::Seconds(1));
  Add(&unmeasured, 10 * kChunk, absl::Seconds(1));
  EXPECT_FALSE(unmeasured.Next(kStart + absl::Milliseconds(999)).has_value());

  DeadlineWatch with_cache(kChunk, /*prefix_cache=*/true);
  Measure(&with_cache, absl::Milliseconds(10));
  Add(&with_cache, 10 * kChunk, absl::Seconds(1));
  EXPECT_FALSE(with_cache.Next(kStart + absl::Milliseconds(999)).has_value());
}

TEST_F(DeadlineWatchTest, EachDropLowersTheBound) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/false);
  Measure(&watch, absl::Milliseconds(10));
  Add(&watch, 10 * kChunk, absl::Seconds(1));
  EXPECT_TRUE(watch.Next(kStart + absl::Milliseconds(905)).has_value());
  Add(&watch, 10 * kChunk, absl::Seconds(1));
  EXPECT_FALSE(watch.Next(kStart + absl::Milliseconds(905)).has_value());
}

TEST_F(DeadlineWatchTest, GivesUpAtTheVeryMoment) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/false);
  Measure(&watch, absl::Milliseconds(10));
  Add(&watch, 10 * kChunk, absl::Seconds(1));
  const auto expiry = watch.Next(kStart + absl::Milliseconds(900));
  ASSERT_TRUE(expiry.has_value());
  EXPECT_EQ(expiry->kind, DeadlineWatch::Kind::kHopeless);
}

TEST_F(DeadlineWatchTest, MeasurementsRestoreTheBoundAfterManyDrops) {
  DeadlineWatch watch(kChunk, /*prefix_cache=*/false);
  Measure(&watch, absl::Milliseconds(10));
  for (int i = 0; i < 200; ++i) {
    Add(&watch, 10 * kChunk, absl::Seconds(1));
    while (watch.Next(kStart + absl::Seconds(2)).has_value()) {
    }
  }
  Add(&watch, 10 * kChunk, absl::Seconds(1));
  EXPECT_FALSE(watch.Next(kStart + absl::Milliseconds(905)).has_value());
  for (int i = 0; i < 250; ++i) watch.NoteStep(kChunk, absl::Milliseconds(12));
  Add(&watch, 10 * kChunk, absl::Seconds(1));
  EXPECT_TRUE(watch.Next(kStart + absl::Milliseconds(905)).has_value());
}

}  // namespace
}  // namespace parallax
