// The GPU's prefill against the double-precision oracle: Hopper's kernels and the portable ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/execution.h"
#include "kernels/cuda/parallax_prefill.h"
#include "tests/kernels/cuda/hold_stream.h"
#include "tests/kernels/cuda/parallax_attention/attention_batch.h"
#include "tests/kernels/cuda/parallax_attention/early_copy.h"
#include "tests/kernels/cuda/parallax_attention/prefill_harness.h"
#include "tests/kernels/reference/captured_attention.h"

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

// bfloat16 weights and output: softmax alone lands at 2e-3 to 4e-3.
constexpr double kTolerance = 4e-3;

struct Chunk {
  int rows;
  int context;
};

const std::vector<Chunk> kRagged = {{1, 1},    {63, 63},   {64, 130}, {65, 165},
                                    {7, 1000}, {129, 129}, {200, 456}};

std::vector<AttentionProblem> Problems(const AttentionShape& shape,
                                       const std::vector<Chunk>& chunks, std::mt19937& rng) {
  std::vector<AttentionProblem> problems;
  for (const Chunk& chunk : chunks) {
    problems.push_back(RandomProblem(shape, chunk.rows, chunk.context, rng));
  }
  return problems;
}

std::vector<std::vector<double>> References(const std::vector<AttentionProblem>& problems) {
  std::vector<std::vector<double>> references;
  for (const AttentionProblem& problem : problems) {
    references.push_back(reference::Attention(problem));
  }
  return references;
}

double WorstError(const std::vector<std::vector<float>>& outs,
                  const std::vector<std::vector<double>>& references) {
  double worst = 0.0;
  for (size_t i = 0; i < outs.size(); ++i) {
    worst = std::max(worst, RelativeError(outs[i], references[i]));
  }
  return worst;
}

// Of both kernels.
double WorstError(const AttentionShape& shape, const std::vector<Chunk>& chunks) {
  std::mt19937 rng(1);
  const auto problems = Problems(shape, chunks, rng);
  const auto references = References(problems);
  PrefillBatch batch(problems, rng);
  return std::max(WorstError(batch.Run(TunedDevice()), references),
                  WorstError(batch.Run(PortableDevice()), references));
}

struct NamedShape {
  std::string name;
  AttentionShape shape;
};

class PrefillShapes : public testing::TestWithParam<NamedShape> {};

TEST_P(PrefillShapes, RaggedChunksBehindPrefixes) {
  EXPECT_LT(WorstError(GetParam().shape, kRagged), kTolerance);
}

TEST_P(PrefillShapes, SlidingWindow) {
  AttentionShape shape = GetParam().shape;
  for (const int window : {1, 64, 100}) {
    shape.window = window;
    EXPECT_LT(WorstError(shape, kRagged), kTolerance) << window;
  }
}

// Few rows behind a long prefix: the keys are cut between blocks, which merge.
TEST_P(PrefillShapes, FewRowsBehindManyKeys) {
  EXPECT_LT(WorstError(GetParam().shape, {{3, 9001}, {40, 2100}}), kTolerance);
  AttentionShape windowed = GetParam().shape;
  windowed.window = 5000;
  EXPECT_LT(WorstError(windowed, {{5, 9001}}), kTolerance);
}

// Parts merge in pairs, and pairs in pairs: at every number of them, also where some find no
// neighbour.
TEST_P(PrefillShapes, EveryNumberOfParts) {
  for (int parts = 2; parts <= 9; ++parts) {
    EXPECT_LT(WorstError(GetParam().shape, {{2, 16 * parts * kPageSize + 5}}), kTolerance) << parts;
  }
}

// With tiles that turn the ring and keys that are cut, on little: small enough for racecheck.
TEST(PrefillTest, EachKernelOnce) {
  for (const int head_dim : {64, 128}) {
    for (const bool probe : {true, false}) {
      const AttentionShape shape{
          .query_heads = 4, .kv_heads = 2, .head_dim = head_dim, .probe = probe};
      EXPECT_LT(WorstError(shape, {{130, 700}, {3, 3000}}), kTolerance)
          << head_dim << (probe ? " dims" : " dims, no probe");
    }
  }
}

TEST_P(PrefillShapes, SameBitsEveryTime) {
  std::mt19937 rng(2);
  for (const auto& chunks : {kRagged, std::vector<Chunk>{{3, 9001}}, {{70, 7300}}}) {
    PrefillBatch batch(Problems(GetParam().shape, chunks, rng), rng);
    for (const DeviceProperties& device : {TunedDevice(), PortableDevice()}) {
      const auto first = batch.Run(device);
      EXPECT_EQ(first, batch.Run(device));
      // Launches that overlap share the workspace.
      batch.params().programmatic_launch = true;
      for (int i = 0; i < 10; ++i) batch.Enqueue(device, nullptr);
      EXPECT_EQ(first, batch.batch().ReadOut());
      batch.params().programmatic_launch = false;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, PrefillShapes,
    testing::Values(NamedShape{"Group1Dim128", {.query_heads = 2, .kv_heads = 2}},
                    NamedShape{"Group2Dim128", {.query_heads = 4, .kv_heads = 2}},
                    NamedShape{"Group3Dim128", {.query_heads = 6, .kv_heads = 2}},
                    NamedShape{"Group3Dim64", {.query_heads = 3, .kv_heads = 1, .head_dim = 64}},
                    NamedShape{"Group4Dim64", {.query_heads = 4, .kv_heads = 1, .head_dim = 64}},
                    NamedShape{"Group32Dim128", {.query_heads = 32, .kv_heads = 1}},
                    NamedShape{"Group16Dim128", {.query_heads = 16, .kv_heads = 1}},
                    NamedShape{"SoftmaxDim128", {.query_heads = 4, .kv_heads = 2, .probe = false}},
                    NamedShape{"SoftmaxDim64",
                               {.query_heads = 4, .kv_heads = 2, .head_dim = 64, .probe = false}}),
    [](const auto& info) { return info.param.name; });

// Without split_keys a row's bits depend on its own inputs: neither chunking nor neighbours nor
// pages.
TEST(PrefillTest, ChunksOfAPromptGiveTheBitsOfTheWhole) {
  const AttentionShape shape = {.query_heads = 4, .kv_heads = 2};
  constexpr int kContext = 2300;
  std::mt19937 rng(3);
  const AttentionProblem whole = RandomProblem(shape, kContext, kContext, rng);
  const size_t row = size_t(shape.query_heads) * shape.head_dim;
  const size_t token = size_t(shape.kv_heads) * shape.head_dim;
  const auto run = [&](const std::vector<AttentionProblem>& problems,
                       const DeviceProperties& device) {
    PrefillBatch batch(problems, rng);
    batch.params().split_keys = false;
    return batch.Run(device).back();
  };
  for (const DeviceProperties& device : {TunedDevice(), PortableDevice()}) {
    const std::vector<float> expected = run({whole}, device);
    for (const Chunk chunk : {Chunk{1, 1}, Chunk{37, 500}, Chunk{200, 1100}, Chunk{3, 2300}}) {
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
      EXPECT_EQ(run({neighbour, part}, device),
                std::vector<float>(expected.begin() + begin, expected.begin() + end))
          << chunk.rows << " rows up to " << chunk.context;
    }
  }
}

// The kernel before it is itself held up.
TEST(PrefillTest, WaitsForWhatTheKernelBeforeItWrites) {
  std::mt19937 rng(7);
  const AttentionShape shape = {.query_heads = 4, .kv_heads = 2};
  for (const Chunk& chunk : {Chunk{300, 2500}, {3, 9001}, {300, 2500}, {3, 9001}}) {
    PrefillBatch batch(Problems(shape, {chunk}, rng), rng);
    const auto expected = batch.Run();
    const ConstTensorView q = batch.params().q;
    const int64_t size = q.shape[0] * q.strides[0];
    DeviceArray<uint16_t> saved(size);
    auto* const queries = static_cast<uint16_t*>(const_cast<void*>(q.data));
    Require(cudaMemcpy(saved.data(), queries, size * sizeof(uint16_t), cudaMemcpyDeviceToDevice));
    Require(cudaMemset(queries, 0xff, size * sizeof(uint16_t)));
    batch.batch().PoisonOut();
    batch.params().programmatic_launch = true;
    HoldStream(/*nanoseconds=*/1'000'000, Stream(0, nullptr));
    EarlyCopy(saved.data(), queries, size, Stream(0, nullptr));
    batch.Enqueue(TunedDevice(), nullptr);
    EXPECT_EQ(batch.batch().ReadOut(), expected) << chunk.rows << " rows";
  }
}

TEST(PrefillTest, ReplaysAGraphWithOtherContents) {
  const AttentionShape shape = {.query_heads = 2, .kv_heads = 1};
  std::mt19937 rng(4);
  std::vector<std::vector<AttentionProblem>> contents;
  // The first has as many tokens, pages and table columns as any.
  for (const auto& chunks : std::vector<std::vector<Chunk>>{{{300, 2500}, {200, 900}, {64, 64}},
                                                            {{1, 1}, {100, 900}, {3, 2500}},
                                                            {{64, 64}, {200, 2499}, {130, 131}},
                                                            {{2, 2500}, {1, 2}, {1, 1}}}) {
    contents.push_back(Problems(shape, chunks, rng));
  }
  std::vector<std::vector<std::vector<double>>> references;
  for (const auto& problems : contents) references.push_back(References(problems));
  for (const DeviceProperties& device : {TunedDevice(), PortableDevice()}) {
    PrefillBatch batch(contents[0], rng);
    const OwnedStream stream(0);
    const Graph graph = Graph::Capture(
        stream.stream(), [&] { batch.Enqueue(device, stream.stream().cuda_stream()); });
    for (const size_t i : {1, 0, 3, 2}) {
      batch.batch().TakeContents(AttentionBatch(contents[i], rng));
      batch.batch().PoisonOut();
      graph.Launch(stream.stream());
      EXPECT_LT(WorstError(batch.batch().ReadOut(), references[i]), kTolerance) << "contents " << i;
    }
  }
}

// The correction term may be much larger than the output; keys may lie off zero.
TEST(PrefillTest, ErrorStaysNearSoftmaxs) {
  for (const std::vector<Chunk>& chunks : {std::vector<Chunk>{{200, 2000}}, {{5, 6000}}}) {
    for (const float key_mean : {0.0f, 3.0f}) {
      AttentionShape shape = {.query_heads = 2, .kv_heads = 1, .key_mean = key_mean};
      shape.probe_deviation = 0.0f;
      const double softmax = WorstError(shape, chunks);
      for (const float probe_deviation : {1.0f, 10.0f, 1000.0f}) {
        shape.probe_deviation = probe_deviation;
        EXPECT_LT(WorstError(shape, chunks), 3 * softmax)
            << "keys of mean " << key_mean << ", r scaled by " << probe_deviation << ", context "
            << chunks[0].context;
      }
    }
  }
}

// A few keys hold most of the weight: m and c move late, and p or s2 - c may be large. Sharper
// still, rounding the output to bfloat16 alone costs more than three times as much with a probe
// as without.
TEST(PrefillTest, ErrorStaysNearSoftmaxsWhenScoresAreFarApart) {
  AttentionShape shape = {.query_heads = 2, .kv_heads = 1, .query_deviation = 10.0f};
  shape.key_mean = 3.0f;
  shape.probe_deviation = 0.0f;
  const double softmax = WorstError(shape, {{200, 1500}});
  for (const float probe_deviation : {1.0f, 100.0f}) {
    shape.probe_deviation = probe_deviation;
    EXPECT_LT(WorstError(shape, {{200, 1500}}), 3 * softmax) << "r scaled by " << probe_deviation;
  }
}

TEST(PrefillTest, CapturedFromTheDefaultModel) {
  const auto error = [](const std::vector<AttentionProblem>& problems,
                        const DeviceProperties& device) {
    std::mt19937 rng(6);
    return RelativeErrorOfAll(PrefillBatch(problems, rng).Run(device), problems);
  };
  for (const AttentionProblem& captured :
       reference::ReadCapturedAttention(reference::kDefaultModelAttention)) {
    for (const DeviceProperties& device : {TunedDevice(), PortableDevice()}) {
      for (const auto& problems : {std::vector{captured}, reference::SplitIntoRows(captured)}) {
        const double probed = error(problems, device);
        EXPECT_LT(probed, 3 * error(reference::WithZeroProbes(problems), device));
        EXPECT_LT(probed, kTolerance);
      }
    }
  }
}

TEST(PrefillTest, LogitsOfTenThousand) {
  AttentionShape shape = {.query_heads = 2, .kv_heads = 1};
  shape.query_deviation = 3000.0f;
  EXPECT_LT(WorstError(shape, {{200, 700}}), kTolerance);
  EXPECT_LT(WorstError(shape, {{3, 5000}}), kTolerance);
}

TEST(PrefillTest, RefusesByName) {
  std::mt19937 rng(5);
  PrefillBatch batch(Problems({.query_heads = 2, .kv_heads = 1}, {{5, 5}}, rng), rng);
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
  bad.r.shape[0] = 4;
  refuses(bad, "r");
  bad = good;
  bad.sliding_window = -1;
  refuses(bad, "sliding_window");
  bad = good;
  bad.workspace = {};
  refuses(bad, "workspace");
  bad = good;
  bad.workspace = {good.workspace.data() + 16, good.workspace.size()};
  refuses(bad, "workspace.data");
  bad = good;
  bad.softmax_scale = 0.0f;
  refuses(bad, "softmax_scale");
  bad.softmax_scale = HUGE_VALF;
  refuses(bad, "softmax_scale");
  bad = good;
  bad.q.shape[1] = bad.r.shape[1] = bad.out.shape[1] = 0;
  refuses(bad, "query heads a KV head");
}

}  // namespace
}  // namespace parallax::kernels::cuda
