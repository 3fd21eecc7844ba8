// The GPU's decode of batches with several units a CTA, of lengths that differ little: units are
// dealt out whole where that balances, and cut where it does not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/cuda/parallax_attention/decode_harness.h"

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

// Sequences of few keys have little to average over.
constexpr double kTolerance = 8e-3;

// An H200 has 256 CTAs for one tile of rows, 128 for two.
struct Deal {
  std::string name;
  AttentionShape shape;
  int sequences;
  int query_rows = 1;
};

constexpr int kLongest = 256;

// Evenly spaced, the longest first.
std::vector<AttentionProblem> LongestFirst(const Deal& deal, std::mt19937& rng) {
  std::vector<AttentionProblem> problems;
  for (int i = 0; i < deal.sequences; ++i) {
    const int context = std::max(deal.query_rows, kLongest - i * kLongest / deal.sequences);
    problems.push_back(RandomProblem(deal.shape, deal.query_rows, context, rng));
  }
  return problems;
}

class DecodeDeals : public testing::TestWithParam<Deal> {
 protected:
  void SetUp() override {
    problems_ = LongestFirst(GetParam(), rng_);
    for (const AttentionProblem& problem : problems_) {
      references_.push_back(reference::Attention(problem));
    }
    order_.resize(problems_.size());
    std::iota(order_.begin(), order_.end(), 0);
  }

  DecodeBatch BatchInOrder() {
    std::vector<AttentionProblem> ordered;
    for (const int i : order_) ordered.push_back(problems_[i]);
    return DecodeBatch(ordered, rng_);
  }

  // The first `count` sequences of the order.
  void ExpectRight(const std::vector<std::vector<float>>& outs, int count) const {
    for (int i = 0; i < count; ++i) {
      EXPECT_LT(RelativeError(outs[i], references_[order_[i]]), kTolerance)
          << "sequence " << i << " of " << problems_[order_[i]].context << " keys";
    }
  }

  void ExpectRightInOrder(const std::string& order) {
    SCOPED_TRACE(order);
    DecodeBatch batch = BatchInOrder();
    const auto outs = batch.Run();
    ExpectRight(outs, static_cast<int>(order_.size()));
    EXPECT_EQ(outs, batch.Run());
  }

  std::mt19937 rng_{11};
  std::vector<AttentionProblem> problems_;
  std::vector<std::vector<double>> references_;
  std::vector<int> order_;
};

TEST_P(DecodeDeals, RightInAnyOrder) {
  ExpectRightInOrder("longest first");
  std::reverse(order_.begin(), order_.end());
  ExpectRightInOrder("shortest first");
  std::shuffle(order_.begin(), order_.end(), rng_);
  ExpectRightInOrder("in no order");
}

// As a captured graph's padding: a few, so that whole units still balance, and many.
TEST_P(DecodeDeals, EmptySequencesAtTheEnd) {
  DecodeBatch batch = BatchInOrder();
  const int sequences = static_cast<int>(order_.size());
  for (const int empty : {1, sequences / 4, sequences - 1}) {
    std::vector<int> contexts;
    for (const AttentionProblem& problem : problems_) contexts.push_back(problem.context);
    std::fill(contexts.end() - empty, contexts.end(), 0);
    batch.SetContexts(contexts);
    const auto outs = batch.Run();
    ExpectRight(outs, sequences - empty);
    for (int i = sequences - empty; i < sequences; ++i) {
      EXPECT_TRUE(
          std::all_of(outs[i].begin(), outs[i].end(), [](float x) { return std::isnan(x); }))
          << "empty sequence " << i;
    }
  }
  batch.SetContexts(std::vector<int>(sequences, 0));
  for (const auto& out : batch.Run()) {
    EXPECT_TRUE(std::all_of(out.begin(), out.end(), [](float x) { return std::isnan(x); }));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Decode, DecodeDeals,
    testing::Values(
        Deal{"TwoACta", {}, 64}, Deal{"TwoAndAHalfACta", {.query_heads = 32}, 80},
        Deal{"ThreeOfFourHeads", {.query_heads = 32, .kv_heads = 4, .head_dim = 64}, 192},
        Deal{"FourInAWindow", {.query_heads = 8, .head_dim = 64, .window = 100}, 128},
        Deal{"FiveOf16Heads", {.query_heads = 64, .kv_heads = 16}, 80},
        Deal{"TwoOfGroup8", {.query_heads = 64, .window = 130}, 64},
        Deal{"ThreeOfOneHead", {.query_heads = 4, .kv_heads = 1}, 700},
        Deal{"FourOfThreeHeads", {.query_heads = 3, .kv_heads = 3}, 300},
        Deal{"ThreeOfTwoTiles", {.query_heads = 32, .kv_heads = 2, .head_dim = 64}, 192},
        Deal{"TwoOfSeveralRows", {.query_heads = 16, .kv_heads = 2}, 32, 8}),
    [](const auto& info) { return info.param.name; });

// Bits tell how a unit was read: those of a unit that one CTA read whole do not depend on what else
// is in the batch. Halves of this batch have a unit a CTA, so short that none is cut. REQUIRES: a
// Hopper GPU, which has two CTAs on a multiple of 16 SMs.
TEST(DecodeDealTest, UnequalLengthsInOrderStayWhole) {
  const AttentionShape shape{.query_heads = 32};
  const int ctas = 2 * (ReadDeviceProperties(0).num_sms / 16 * 16);
  const int half = ctas / shape.kv_heads;
  std::mt19937 rng(12);
  const auto problems = LongestFirst({"", shape, 2 * half}, rng);
  const auto outs = DecodeBatch(problems, rng).Run();
  for (const int first : {0, half}) {
    const std::vector<AttentionProblem> part(problems.begin() + first,
                                             problems.begin() + first + half);
    const auto outs_of_part = DecodeBatch(part, rng).Run();
    for (int i = 0; i < half; ++i) EXPECT_EQ(outs_of_part[i], outs[first + i]) << first + i;
  }
}

}  // namespace
}  // namespace parallax::kernels::cuda
