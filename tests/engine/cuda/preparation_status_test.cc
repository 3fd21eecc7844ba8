// A start that fails says what to do about it, and nothing that would not help.
#include "engine/cuda/preparation_status.h"

#include <functional>
#include <string>

#include "gtest/gtest.h"

namespace parallax {
namespace {

absl::Status StatusOf(const std::function<void()>& prepare) {
  try {
    prepare();
  } catch (const kernels::KernelError& error) {
    return PreparationStatus("tuning", error);
  }
  return absl::OkStatus();
}

TEST(PreparationStatus, WantOfMemoryNamesWhatToLower) {
  const absl::Status status =
      StatusOf([] { kernels::ThrowOutOfMemory("Graph", "cudaGraphInstantiate", "no memory"); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "tuning: Graph: cudaGraphInstantiate: no memory: lower the share of GPU memory (the "
            "size of the KV cache where that is given), the number of sequences or the batched "
            "tokens");
}

TEST(PreparationStatus, AMissingLibraryIsNoQuestionOfMemory) {
  const absl::Status status =
      StatusOf([] { kernels::ThrowMissingLibrary("LinearPlans", "cuBLASLt", "cannot be loaded"); });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "tuning: LinearPlans: cuBLASLt: cannot be loaded");
}

TEST(PreparationStatus, AllElseIsABug) {
  const absl::Status status =
      StatusOf([] { kernels::ThrowKernelError("RmsNorm", "x", "must have data, is null"); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "tuning: RmsNorm: x: must have data, is null");
}

}  // namespace
}  // namespace parallax
