// The attention problems that kernels are tested on are those of the default model.
#include "tests/engine/models/attention_capture.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/reference/captured_attention.h"

namespace parallax::testing {
namespace {

using reference::AttentionProblem;

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max<double>(largest, std::abs(a[i] - b[i]) / std::max(1.0f, std::abs(b[i])));
  }
  return largest;
}

TEST(AttentionCapture, TheCommittedFileIsOfTheDefaultModel) {
  const std::vector<AttentionProblem> kept =
      reference::ReadCapturedAttention(reference::kDefaultModelAttention);
  const std::vector<AttentionProblem> captured = CaptureDefaultModel();
  ASSERT_EQ(kept.size(), captured.size());
  constexpr double kOneRounding = 0x1p-7;
  for (size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(kept[i].context, captured[i].context);
    EXPECT_EQ(kept[i].query_rows, captured[i].query_rows);
    EXPECT_EQ(kept[i].scale, captured[i].scale);
    EXPECT_LE(LargestDifference(kept[i].q, captured[i].q), kOneRounding);
    EXPECT_LE(LargestDifference(kept[i].r, captured[i].r), kOneRounding);
    EXPECT_LE(LargestDifference(kept[i].k, captured[i].k), kOneRounding);
    EXPECT_LE(LargestDifference(kept[i].v, captured[i].v), kOneRounding);
  }
}

}  // namespace
}  // namespace parallax::testing
