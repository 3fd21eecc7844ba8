// The GPU's prefill against the double-precision oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/parallax_prefill.h"
#include "tests/kernels/cuda/parallax_attention/decode_harness.h"
#include "tests/kernels/cuda/parallax_attention/prefill_harness.h"

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

// bfloat16 weights and output: softmax alone lands at 2e-3 to 4e-3.
constexpr double kTolerance = 4e-3;

struct Chunk {
  int rows;
  int context;
};

std::vector<AttentionProblem> Problems(const DecodeShape& shape, const std::vector<Chunk>& chunks,
                                       std::mt19937& rng) {
  std::vector<AttentionProblem> problems;
  for (const Chunk& chunk : chunks) {
    problems.push_back(RandomProblem(shape, chunk.rows, chunk.context, rng));
  }
  return problems;
}

double WorstError(const std::vector<AttentionProblem>& problems, std::mt19937& rng) {
  PrefillBatch batch(problems, rng);
  const auto outs = batch.Run();
  double worst = 0.0;
  for (size_t i = 0; i < problems.size(); ++i) {
    worst = std::max(worst, RelativeError(outs[i], reference::Attention(problems[i])));
  }
  return worst;
}

double WorstError(const DecodeShape& shape, const std::vector<Chunk>& chunks) {
  std::mt19937 rng(1);
  return WorstError(Problems(shape, chunks, rng), rng);
}

const std::vector<Chunk> kRagged = {{1, 1},    {63, 63},   {64, 130}, {65, 165},
                                    {7, 1000}, {129, 129}, {200, 456}};

struct NamedShape {
  std::string name;
  DecodeShape shape;
};

class PrefillShapes : public testing::TestWithParam<NamedShape> {};

TEST_P(PrefillShapes, RaggedChunksBehindPrefixes) {
  EXPECT_LT(WorstError(GetParam().shape, kRagged), kTolerance);
}

TEST_P(PrefillShapes, SlidingWindow) {
  DecodeShape shape = GetParam().shape;
  for (const int window : {1, 64, 100}) {
    shape.window = window;
    EXPECT_LT(WorstError(shape, kRagged), kTolerance) << window;
  }
}

TEST_P(PrefillShapes, SameBitsEveryTime) {
  std::mt19937 rng(2);
  PrefillBatch batch(Problems(GetParam().shape, kRagged, rng), rng);
  EXPECT_EQ(batch.Run(), batch.Run());
}

INSTANTIATE_TEST_SUITE_P(
    All, PrefillShapes,
    testing::Values(NamedShape{"Group1Dim128", {.query_heads = 2, .kv_heads = 2, .head_dim = 128}},
                    NamedShape{"Group2Dim128", {.query_heads = 4, .kv_heads = 2, .head_dim = 128}},
                    NamedShape{"Group3Dim128", {.query_heads = 6, .kv_heads = 2, .head_dim = 128}},
                    NamedShape{"Group4Dim64", {.query_heads = 4, .kv_heads = 1, .head_dim = 64}},
                    NamedShape{"Group16Dim128",
                               {.query_heads = 16, .kv_heads = 1, .head_dim = 128}}),
    [](const auto& info) { return info.param.name; });

// A row's bits depend on nothing but its own inputs: neither chunking nor neighbours nor pages.
TEST(PrefillTest, ChunksOfAPromptGiveTheBitsOfTheWhole) {
  const DecodeShape shape = {.query_heads = 4, .kv_heads = 2, .head_dim = 128};
  constexpr int kContext = 1300;
  std::mt19937 rng(3);
  const AttentionProblem whole = RandomProblem(shape, kContext, kContext, rng);
  const auto expected = PrefillBatch({whole}, rng).Run()[0];
  const size_t row = size_t(shape.query_heads) * shape.head_dim;
  const size_t token = size_t(shape.kv_heads) * shape.head_dim;
  for (const Chunk chunk : {Chunk{1, 1}, Chunk{37, 500}, Chunk{200, 1100}, Chunk{3, 1300}}) {
    AttentionProblem part = whole;
    part.query_rows = chunk.rows;
    part.context = chunk.context;
    const size_t begin = (chunk.context - chunk.rows) * row;
    const size_t end = chunk.context * row;
    part.q.assign(whole.q.begin() + begin, whole.q.begin() + end);
    part.r.assign(whole.r.begin() + begin, whole.r.begin() + end);
    part.k.resize(chunk.context * token);
    part.v.resize(chunk.context * token);
    const AttentionProblem neighbour = RandomProblem(shape, 70, 90, rng);
    const auto out = PrefillBatch({neighbour, part}, rng).Run()[1];
    EXPECT_EQ(out, std::vector<float>(expected.begin() + begin, expected.begin() + end))
        << chunk.rows << " rows up to " << chunk.context;
  }
}

// The correction term may be much larger than the output; keys may lie off zero.
TEST(PrefillTest, ErrorStaysNearSoftmaxs) {
  for (const float key_mean : {0.0f, 3.0f}) {
    DecodeShape shape = {.query_heads = 2, .kv_heads = 1, .head_dim = 128};
    shape.key_mean = key_mean;
    shape.probe_deviation = 0.0f;
    const double softmax = WorstError(shape, {{200, 2000}});
    for (const float probe_deviation : {1.0f, 10.0f, 1000.0f}) {
      shape.probe_deviation = probe_deviation;
      EXPECT_LT(WorstError(shape, {{200, 2000}}), 3 * softmax)
          << "keys of mean " << key_mean << ", r scaled by " << probe_deviation;
    }
  }
}

TEST(PrefillTest, LogitsOfTenThousand) {
  DecodeShape shape = {.query_heads = 2, .kv_heads = 1, .head_dim = 128};
  shape.query_deviation = 3000.0f;
  EXPECT_LT(WorstError(shape, {{200, 700}}), kTolerance);
}

TEST(PrefillTest, RefusesByName) {
  std::mt19937 rng(4);
  const DecodeShape shape = {.query_heads = 2, .kv_heads = 1, .head_dim = 128};
  PrefillBatch batch(Problems(shape, {{5, 5}}, rng), rng);
  const ParallaxPrefillParams good = batch.params();
  const auto refuses = [&](const ParallaxPrefillParams& params, const std::string& operand) {
    batch.params() = params;
    try {
      batch.Run();
      ADD_FAILURE() << "accepted a bad " << operand;
    } catch (const KernelError& error) {
      EXPECT_NE(std::string(error.what()).find(operand), std::string::npos) << error.what();
    }
  };
  ParallaxPrefillParams bad = good;
  bad.r = {};
  refuses(bad, "r");
  bad = good;
  bad.sliding_window = -1;
  refuses(bad, "sliding_window");
  bad = good;
  bad.workspace = {};
  refuses(bad, "workspace");
  bad = good;
  bad.softmax_scale = 0.0f;
  refuses(bad, "softmax_scale");
}

}  // namespace
}  // namespace parallax::kernels::cuda
