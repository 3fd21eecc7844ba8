// The GPU's decode against the double-precision oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/check.h"
#include "tests/kernels/cuda/parallax_attention/decode_harness.h"

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

// bfloat16 weights and output: softmax alone lands at 2e-3 to 4e-3.
constexpr double kTolerance = 6e-3;
// Of a thousand sequences with few keys and heads the worst has less to average over.
constexpr double kLooseTolerance = 8e-3;

std::vector<AttentionProblem> Problems(const AttentionShape& shape,
                                       const std::vector<int>& contexts,
                                       const std::vector<int>& query_rows, std::mt19937& rng) {
  std::vector<AttentionProblem> problems;
  for (size_t i = 0; i < contexts.size(); ++i) {
    const int rows = std::min(contexts[i], query_rows.empty() ? 1 : query_rows[i]);
    problems.push_back(RandomProblem(shape, rows, contexts[i], rng));
  }
  return problems;
}

double WorstError(const std::vector<AttentionProblem>& problems, DecodeBatch& batch) {
  const auto outs = batch.Run();
  double worst = 0.0;
  for (size_t i = 0; i < problems.size(); ++i) {
    worst = std::max(worst, RelativeError(outs[i], reference::Attention(problems[i])));
  }
  return worst;
}

double WorstError(const AttentionShape& shape, const std::vector<int>& contexts,
                  const std::vector<int>& query_rows = {}, uint32_t seed = 1) {
  std::mt19937 rng(seed);
  const auto problems = Problems(shape, contexts, query_rows, rng);
  DecodeBatch batch(problems, rng);
  return WorstError(problems, batch);
}

struct NamedShape {
  std::string name;
  AttentionShape shape;
};

class DecodeShapes : public testing::TestWithParam<NamedShape> {};

TEST_P(DecodeShapes, OneSequenceOfAnyLength) {
  for (const int context : {1, 2, 63, 64, 65, 127, 128, 129, 511, 512, 513, 2047, 4100}) {
    EXPECT_LT(WorstError(GetParam().shape, {context}), kTolerance) << context;
  }
}

TEST_P(DecodeShapes, RaggedBatch) {
  const std::vector<int> contexts = {1, 63, 64, 65, 1000, 17, 2049, 128, 300, 5, 700, 64};
  EXPECT_LT(WorstError(GetParam().shape, contexts), kTolerance);
}

TEST_P(DecodeShapes, SeveralQueryRows) {
  const std::vector<int> contexts = {8, 65, 64, 700, 130, 3};
  EXPECT_LT(WorstError(GetParam().shape, contexts, {8, 2, 8, 5, 1, 3}), kTolerance);
}

TEST_P(DecodeShapes, SlidingWindow) {
  for (const int window : {1, 64, 100}) {
    AttentionShape shape = GetParam().shape;
    shape.window = window;
    EXPECT_LT(WorstError(shape, {1, 64, 65, 500, 1111}), kTolerance) << window;
    EXPECT_LT(WorstError(shape, {8, 64, 65, 500, 1111}, {8, 3, 2, 8, 1}), kTolerance) << window;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Decode, DecodeShapes,
    testing::Values(NamedShape{"Heads8Of8", {}}, NamedShape{"Heads16Of8", {.query_heads = 16}},
                    NamedShape{"Heads8Of2Dim64", {.query_heads = 8, .kv_heads = 2, .head_dim = 64}},
                    NamedShape{"Heads16Of1", {.query_heads = 16, .kv_heads = 1}},
                    NamedShape{"Heads6Of2", {.query_heads = 6, .kv_heads = 2}},
                    NamedShape{"Softmax", {.query_heads = 4, .kv_heads = 2, .probe = false}}),
    [](const auto& info) { return info.param.name; });

// A unit of one of two sequences is cut between most of the GPU's CTAs.
TEST(DecodeTest, OneLongSequenceAmongShortOnes) {
  std::vector<int> contexts(20, 40);
  contexts[7] = 20000;
  EXPECT_LT(WorstError({.query_heads = 2, .kv_heads = 1}, contexts), kTolerance);
  EXPECT_LT(WorstError({.query_heads = 2, .kv_heads = 1}, {20000, 100}), kTolerance);
}

// From few units to many: clusters of every size, plans of short and of long batches, units cut
// and whole.
TEST(DecodeTest, BatchesOfEverySize) {
  const AttentionShape one_tile{.query_heads = 2, .kv_heads = 1};
  const AttentionShape two_tiles{.query_heads = 16, .kv_heads = 1, .head_dim = 64};
  for (const int sequences : {3, 20, 32, 33, 50, 64, 80, 300, 1024}) {
    std::mt19937 rng(sequences);
    std::vector<int> contexts(sequences);
    for (int& context : contexts)
      context = std::uniform_int_distribution(1, 60000 / sequences)(rng);
    EXPECT_LT(WorstError(one_tile, contexts), kLooseTolerance) << sequences << " ragged sequences";
    if (sequences > 100) continue;
    EXPECT_LT(WorstError(two_tiles, contexts), kTolerance) << sequences << " sequences, two tiles";
    contexts.assign(sequences, 700);
    EXPECT_LT(WorstError(one_tile, contexts), kTolerance) << sequences << " equal sequences";
  }
}

// Clusters take pages of 64 dims by two where no key of them is masked: one, two and more such
// pages a CTA, an odd one, and masked ones before and behind them.
TEST(DecodeTest, PagesTakenByTwo) {
  AttentionShape shape{.query_heads = 2, .kv_heads = 2, .head_dim = 64};
  for (const int window : {0, 3 * kPageSize, 1100, 3000}) {
    shape.window = window;
    for (const int pages : {8, 15, 16, 17, 24, 31, 32, 40, 47, 80}) {
      const int keys = pages * kPageSize;
      EXPECT_LT(WorstError(shape, {keys}), kTolerance) << pages << " pages, window " << window;
      EXPECT_LT(WorstError(shape, {keys - 1, keys + 1}), kTolerance)
          << pages << " pages, window " << window;
      EXPECT_LT(WorstError(shape, {keys, keys + 3, 40}, {8, 5, 2}), kTolerance)
          << pages << " pages, window " << window;
    }
    for (const int sequences : {10, 20}) {  // in clusters of 4, and of 2
      for (const int pages : {4, 7, 8, 17, 40}) {
        std::vector<int> contexts(sequences, pages * kPageSize + 1);
        EXPECT_LT(WorstError(shape, contexts), kTolerance)
            << sequences << " times " << pages << " pages, window " << window;
        contexts[1] = 1;
        contexts[sequences - 1] += 700;
        EXPECT_LT(WorstError(shape, contexts), kTolerance)
            << sequences << " sequences that differ, " << pages << " pages, window " << window;
      }
    }
  }
}

// More pages a CTA than the feeding warp looks up at once.
TEST(DecodeTest, ManyPagesACta) {
  for (const int head_dim : {64, 128}) {
    AttentionShape shape{.query_heads = 1, .kv_heads = 1, .head_dim = head_dim};
    for (const bool has_window : {false, true}) {
      shape.window = has_window ? 17000 : 0;
      EXPECT_LT(WorstError(shape, std::vector<int>(8, 20000)), kTolerance) << "clusters of 8";
      shape.window = has_window ? 8500 : 0;
      EXPECT_LT(WorstError(shape, std::vector<int>(20, 9000)), kTolerance) << "clusters of 4";
      shape.window = has_window ? 4500 : 0;
      EXPECT_LT(WorstError(shape, std::vector<int>(40, 5000)), kTolerance) << "clusters of 2";
    }
  }
}

// Few units that are cut into slices of parts of two of them, and pairs of pages in both.
TEST(DecodeTest, PagesTakenByTwoOfUnitsThatAreCut) {
  const AttentionShape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 64};
  EXPECT_LT(WorstError(shape, {300 * kPageSize + 5, 290 * kPageSize, 310 * kPageSize - 1}),
            kTolerance);
  EXPECT_LT(
      WorstError(shape, {300 * kPageSize + 5, 290 * kPageSize, 310 * kPageSize - 1}, {1, 8, 3}),
      kTolerance);
}

// Batches of one KV head that make each kernel's ring turn, and cut units (as decode_form_test.cc
// makes sure). Small enough for racecheck, a launch each.
struct KernelCase {
  std::string name;
  int query_heads;  // 16 rows take two tiles
  std::vector<int> contexts;
};

class DecodeKernels : public testing::TestWithParam<std::tuple<int, KernelCase>> {};

TEST_P(DecodeKernels, EachKernelOnce) {
  const auto& [head_dim, batch] = GetParam();
  const AttentionShape shape{.query_heads = batch.query_heads, .kv_heads = 1, .head_dim = head_dim};
  EXPECT_LT(WorstError(shape, batch.contexts), kLooseTolerance);
}

std::vector<int> LongAmongShort(int sequences, int long_context, int context) {
  std::vector<int> contexts(sequences, context);
  contexts[sequences / 2] = long_context;
  return contexts;
}

INSTANTIATE_TEST_SUITE_P(
    Decode, DecodeKernels,
    testing::Combine(testing::Values(64, 128),
                     testing::Values(KernelCase{"ClustersOf8", 1, std::vector<int>(4, 4200)},
                                     KernelCase{"ClustersOf8Cut", 1, {8000, 100}},
                                     KernelCase{"ClustersOf4", 1, std::vector<int>(16, 2600)},
                                     KernelCase{"ClustersOf4Cut", 1, LongAmongShort(16, 6000, 60)},
                                     KernelCase{"ClustersOf2", 1, std::vector<int>(40, 1300)},
                                     KernelCase{"ClustersOf2Cut", 1, LongAmongShort(40, 6000, 60)},
                                     KernelCase{"OneAnSm", 1, std::vector<int>(100, 450)},
                                     KernelCase{"TwoAnSm", 1, std::vector<int>(140, 250)},
                                     KernelCase{"TwoAnSmCut", 1, LongAmongShort(270, 6000, 60)},
                                     KernelCase{"TwoTilesClustersOf8", 16,
                                                std::vector<int>(4, 4200)},
                                     KernelCase{"TwoTiles", 16, std::vector<int>(70, 700)},
                                     KernelCase{"TwoTilesCut", 16, LongAmongShort(140, 6000, 60)})),
    [](const auto& info) {
      return std::get<1>(info.param).name + "Dim" + std::to_string(std::get<0>(info.param));
    });

TEST(DecodeTest, RandomBatches) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    std::mt19937 rng(seed);
    const auto pick = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(rng);
    };
    AttentionShape shape;
    shape.kv_heads = pick(1, 4);
    shape.query_heads = shape.kv_heads * pick(1, 16);
    shape.head_dim = pick(0, 1) ? 128 : 64;
    shape.window = pick(0, 1) ? pick(1, 300) : 0;
    std::vector<int> contexts(pick(1, 24));
    std::vector<int> query_rows(contexts.size());
    for (int& context : contexts) context = pick(1, pick(1, 600));
    for (int& rows : query_rows) rows = pick(1, 8);
    EXPECT_LT(WorstError(shape, contexts, query_rows, seed), kTolerance) << "seed " << seed;
  }
}

// The correction term may be many times the output; keys may lie off zero. All but the scale of r
// is the same; at 0 it is softmax attention by way of the probe.
TEST(DecodeTest, ProbeCostsAtMostThreeTimesSoftmaxError) {
  for (const float query_deviation : {0.5f, 1.0f}) {
    for (const float key_mean : {0.0f, 3.0f}) {
      AttentionShape shape{.query_heads = 16, .kv_heads = 4, .key_mean = key_mean};
      shape.query_deviation = query_deviation;
      shape.probe_deviation = 0.0f;
      const double softmax = WorstError(shape, {700, 3000});
      EXPECT_LT(softmax, kTolerance);
      for (const float probe_deviation : {1.0f, 10.0f, 100.0f}) {
        shape.probe_deviation = probe_deviation;
        EXPECT_LT(WorstError(shape, {700, 3000}), 3 * softmax)
            << "keys of mean " << key_mean << ", r scaled by " << probe_deviation;
      }
    }
  }
}

TEST(DecodeTest, CapturedFromTheDefaultModel) {
  ExpectRightOnCapturedProblems(TunedDevice(), kTolerance);
}

// The longest context that is promised. Keys come again after a while, but never at the same place
// of a page: drawing all of them takes longer than the rest.
TEST(DecodeTest, OneHeadOverAMillionKeys) {
  constexpr int kDrawnKeys = 50021;
  std::mt19937 rng(8);
  const AttentionShape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 64};
  std::vector<AttentionProblem> problems = {RandomProblem(shape, 1, kDrawnKeys, rng)};
  AttentionProblem& problem = problems.front();
  problem.context = 1 << 20;
  const size_t drawn = problem.k.size();
  const size_t size = size_t(problem.context) * shape.head_dim;
  for (std::vector<float>* const values : {&problem.k, &problem.v}) {
    values->resize(size);
    for (size_t i = drawn; i < size; ++i) (*values)[i] = (*values)[i - drawn];
  }
  DecodeBatch batch(problems, rng);
  EXPECT_LT(WorstError(problems, batch), kTolerance);
}

TEST(DecodeTest, HugeProbesAndScoresStayFinite) {
  EXPECT_LT(WorstError({.query_heads = 16, .kv_heads = 8, .probe_deviation = 100.0f}, {700, 64}),
            kTolerance);
  // Scores of +-1e4: one key has all the weight.
  EXPECT_LT(WorstError({.query_deviation = 3000.0f}, {700, 64}), kTolerance);
}

TEST(DecodeTest, SameBitsEveryTime) {
  std::mt19937 rng(3);
  for (const auto& contexts : std::vector<std::vector<int>>{{3000}, {900, 5, 64, 4000, 17, 200}}) {
    const auto problems = Problems({.query_heads = 16}, contexts, {}, rng);
    DecodeBatch batch(problems, rng);
    const auto first = batch.Run();
    EXPECT_EQ(first, batch.Run());
    // Launches that overlap share the workspace.
    ParallaxDecodeParams params = batch.params();
    params.programmatic_launch = true;
    const DeviceProperties device = ReadDeviceProperties(0);
    for (int i = 0; i < 10; ++i) ParallaxDecode(params, device, Stream(0, nullptr));
    EXPECT_EQ(first, batch.ReadOut());
  }
}

TEST(DecodeTest, ReplaysAGraphWithOtherLengths) {
  std::mt19937 rng(4);
  for (const int sequences : {1, 6}) {
    const std::vector<int> contexts(sequences, 1500);
    const auto problems = Problems({}, contexts, {}, rng);
    DecodeBatch batch(problems, rng);
    batch.Run();
    cudaStream_t stream;
    Require(cudaStreamCreate(&stream));
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    batch.Enqueue(stream);
    Require(cudaStreamEndCapture(stream, &graph));
    Require(cudaGraphInstantiate(&executable, graph, 0));
    for (const int most : {64, 1500, 1, 700}) {
      std::vector<int> shorter(sequences, most);
      std::vector<AttentionProblem> seen = problems;
      for (int i = 0; i < sequences; ++i) {
        shorter[i] = std::max(1, most - 60 * i);
        seen[i].context = shorter[i];
      }
      batch.SetContexts(shorter);
      Require(cudaGraphLaunch(executable, stream));
      const auto outs = batch.ReadOut();
      for (int i = 0; i < sequences; ++i) {
        EXPECT_LT(RelativeError(outs[i], reference::Attention(seen[i])), kTolerance)
            << shorter[i] << " keys of sequence " << i;
      }
    }
    Require(cudaGraphExecDestroy(executable));
    Require(cudaGraphDestroy(graph));
    Require(cudaStreamDestroy(stream));
  }
}

TEST(DecodeTest, LeavesRowsOfEmptySequencesAlone) {
  std::mt19937 rng(5);
  const auto problems = Problems({}, {100, 200, 300}, {}, rng);
  DecodeBatch batch(problems, rng);
  batch.SetContexts({100, 0, 300});
  const auto outs = batch.Run();
  EXPECT_LT(RelativeError(outs[0], reference::Attention(problems[0])), kTolerance);
  EXPECT_LT(RelativeError(outs[2], reference::Attention(problems[2])), kTolerance);
  for (const float value : outs[1]) EXPECT_TRUE(std::isnan(value));
}

TEST(DecodeTest, RefusesWhatItCannotRun) {
  std::mt19937 rng(6);
  DecodeBatch batch(Problems({}, {100}, {}, rng), rng);
  const DeviceProperties device = ReadDeviceProperties(0);
  const auto message = [&](auto change) -> std::string {
    ParallaxDecodeParams params = batch.params();
    change(params);
    try {
      ParallaxDecode(params, device, Stream(0, nullptr));
    } catch (const KernelError& error) {
      return error.what();
    }
    return "";
  };
  using Params = ParallaxDecodeParams;
  EXPECT_NE(message([](Params& p) { p.batch = 1025; }).find("batch"), std::string::npos);
  EXPECT_NE(message([](Params& p) { p.max_query_len = 9; }).find("9"), std::string::npos);
  EXPECT_NE(message([](Params& p) { p.cache.head_dim = 96; }).find("head_dim"), std::string::npos);
  EXPECT_NE(message([](Params& p) { p.workspace = {}; }).find("workspace"), std::string::npos);
  EXPECT_NE(
      message([](Params& p) { p.workspace = p.workspace.subspan(16); }).find("workspace.data"),
      std::string::npos);
  EXPECT_NE(message([](Params& p) { p.sliding_window = -1; }).find("-1"), std::string::npos);
  EXPECT_NE(message([](Params& p) { p.block_tables = nullptr; }).find("block_tables"),
            std::string::npos);
  EXPECT_NE(message([](Params& p) { p.max_blocks = INT32_MAX; }).find("max_blocks"),
            std::string::npos);
  // 4096 blocks of rows a sequence: units beyond what 32 bits divide.
  EXPECT_NE(message([](Params& p) {
              p.batch = kMaxDecodeBatch;
              p.max_query_len = kMaxDecodeQueryLen;
              p.query_start = p.context_len;
              p.cache.num_kv_heads = 512;
              for (auto* rows : {&p.q.shape, &p.r.shape, &p.out.shape}) *rows = {8192, 8192, 128};
              p.workspace = {p.workspace.data(), size_t{1} << 40};
            }).find("units of the batch"),
            std::string::npos);
  EXPECT_NE(message([](Params& p) {
              p.batch = kMaxDecodeBatch;
              p.max_blocks = 1 << 22;
              for (auto* rows : {&p.q.shape, &p.r.shape, &p.out.shape}) (*rows)[0] = p.batch;
            }).find("pages of the batch"),
            std::string::npos);
}

}  // namespace
}  // namespace parallax::kernels::cuda
