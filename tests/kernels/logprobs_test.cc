#include "kernels/logprobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/kernels/reference/sampling_reference.h"
#include "tests/kernels/sampling_harness.h"

namespace parallax::kernels {
namespace {

// Feeds the rows' logits in slices of `width` columns.
std::vector<LogprobResult> RunLogprobs(const std::vector<std::vector<float>>& logits,
                                       std::vector<LogprobState> states, int64_t width,
                                       int64_t token_limit) {
  ThreadPool pool(2);
  const Stream stream(pool);
  const int64_t rows = static_cast<int64_t>(logits.size());
  const int64_t vocab = static_cast<int64_t>(logits.front().size());
  for (int64_t begin = 0; begin < vocab; begin += width) {
    const int64_t end = std::min(begin + width, vocab);
    std::vector<float> slice;
    for (const std::vector<float>& row : logits) {
      slice.insert(slice.end(), row.begin() + begin, row.begin() + end);
    }
    AccumulateLogprobs(ConstTensorView(slice.data(), DType::kFloat32, {rows, end - begin}), begin,
                       token_limit, states, stream);
  }
  std::vector<LogprobResult> results;
  for (const LogprobState& state : states) results.push_back(FinishLogprobs(state));
  return results;
}

LogprobState Target(int32_t token, int num_top) {
  LogprobState state;
  state.target = token;
  state.num_top = num_top;
  return state;
}

TEST(LogprobsTest, AgreesWithOracleForEverySlicing) {
  std::mt19937 rng(1);
  constexpr int kVocab = 1003;
  constexpr int64_t kLimit = 1000;
  std::vector<std::vector<float>> logits;
  std::vector<LogprobState> states;
  for (int row = 0; row < 5; ++row) {
    logits.push_back(RandomLogits(kVocab, 4.0f, rng));
    logits.back()[500 + row] = logits.back()[7];  // a tie
    states.push_back(Target(row * 250, 5 * row));
  }
  for (int64_t width : {1, 7, 16, 300, 1003, 2000}) {
    const auto results = RunLogprobs(logits, states, width, kLimit);
    for (int row = 0; row < 5; ++row) {
      const std::vector<double> exact = reference::LogSoftmax(logits[row]);
      std::vector<int> order(kLimit);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return exact[a] > exact[b]; });
      EXPECT_NEAR(results[row].target_logprob, exact[states[row].target], 1e-5);
      ASSERT_EQ(results[row].top_count, states[row].num_top);
      for (int i = 0; i < results[row].top_count; ++i) {
        EXPECT_EQ(results[row].top[i].token, order[i]) << "width " << width << " rank " << i;
        EXPECT_NEAR(results[row].top[i].logprob, exact[order[i]], 1e-5);
      }
    }
  }
}

TEST(LogprobsTest, SlicesOfNothingButMinusInfinity) {
  std::vector<float> logits(64, -HUGE_VALF);
  logits[40] = 1.0f;
  const LogprobResult result = RunLogprobs({logits}, {Target(40, 3)}, 16, 64).front();
  EXPECT_FALSE(result.has_nan);
  EXPECT_EQ(result.target_logprob, 0.0f);
  EXPECT_EQ(result.top_count, 1);
}

TEST(LogprobsTest, BadLogitsFlagTheirRowOnly) {
  const std::vector<float> good(50, 0.5f);
  for (float bad : {std::nanf(""), HUGE_VALF}) {
    for (int position : {0, 20, 49}) {
      std::vector<float> logits = good;
      logits[position] = bad;
      const auto results = RunLogprobs({good, logits}, {Target(1, 2), Target(1, 2)}, 17, 50);
      EXPECT_FALSE(results[0].has_nan);
      EXPECT_TRUE(results[1].has_nan);
    }
  }
}

TEST(LogprobsTest, RefusesTooLargeATop) {
  EXPECT_THROW(RunLogprobs({{1.0f, 2.0f}}, {Target(0, kMaxTopLogprobs + 1)}, 2, 2), KernelError);
}

}  // namespace
}  // namespace parallax::kernels
