#include "engine/runner/memory_plan.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parallax {
namespace {

using ::testing::HasSubstr;

MemoryPlanRequest Request() {
  return {.budget_bytes = 1000 << 20,
          .weight_bytes = 500 << 20,
          .activation_bytes = 80 << 20,
          .probe_state_bytes = 20 << 20,
          .page_bytes = 1 << 20,
          .max_context_tokens = 1000,  // 16 pages
          .max_num_seqs = 64};
}

TEST(MemoryPlan, GivesPagesWhatIsLeft) { EXPECT_EQ(*PlanKvPages(Request()), 400); }

TEST(MemoryPlan, NeverMoreThanTheSequencesCanUse) {
  MemoryPlanRequest request = Request();
  request.max_num_seqs = 3;
  EXPECT_EQ(*PlanKvPages(request), 48);
}

TEST(MemoryPlan, TakesAPageCountAsItIs) {
  MemoryPlanRequest request = Request();
  request.num_pages = 17;
  EXPECT_EQ(*PlanKvPages(request), 17);
  request.num_pages = 15;
  EXPECT_THAT(std::string(PlanKvPages(request).status().message()),
              HasSubstr("15 KV pages cannot hold one sequence of 1000 tokens, which needs 16"));
}

TEST(MemoryPlan, GivenPagesMustFitWhatIsFree) {
  MemoryPlanRequest request = Request();
  request.num_pages = 100;
  request.free_bytes = 700 << 20;
  EXPECT_EQ(*PlanKvPages(request), 100);
  request.num_pages = 101;
  const absl::Status status = PlanKvPages(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "the 700.0 MiB that are free do not suffice: weights take 500.0 MiB, activations 80.0 "
            "MiB, probe states 20.0 MiB, and the 101 KV pages asked for 101.0 MiB: lower the size "
            "of the KV cache, the batched tokens or the number of sequences");
}

TEST(MemoryPlan, SaysWhatToLower) {
  MemoryPlanRequest request = Request();
  request.budget_bytes = 615 << 20;
  const absl::Status status = PlanKvPages(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  for (const char* part :
       {"615.0 MiB", "weights take 500.0 MiB", "activations 80.0 MiB", "probe states 20.0 MiB",
        "1000 tokens needs 16.0 MiB", "raise the budget, or lower the maximum model length"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
  request.budget_bytes = 616 << 20;
  EXPECT_EQ(*PlanKvPages(request), 16);
}

TEST(MemoryPlan, ThisMachineHasSomeMemory) { EXPECT_GT(AvailableMemoryBytes(), 16 << 20); }

}  // namespace
}  // namespace parallax
