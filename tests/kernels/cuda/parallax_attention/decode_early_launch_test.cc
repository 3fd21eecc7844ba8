// The GPU's decode launched while the kernels before it still run: what it waits for, and what
// waits for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cuda/head_norm_rope.h"
#include "tests/kernels/cuda/hold_stream.h"
#include "tests/kernels/cuda/parallax_attention/decode_harness.h"
#include "tests/kernels/cuda/parallax_attention/early_copy.h"
#include "tests/kernels/cuda/parallax_attention/prefill_harness.h"

namespace parallax::kernels::cuda {
namespace {

using reference::AttentionProblem;

// As of decode_test.cc.
constexpr double kTolerance = 6e-3;

// Of so many whole pages and one key.
std::vector<AttentionProblem> OneRowEach(const AttentionShape& shape, int sequences, int pages,
                                         std::mt19937& rng) {
  std::vector<AttentionProblem> problems;
  for (int i = 0; i < sequences; ++i) {
    problems.push_back(RandomProblem(shape, /*query_rows=*/1, pages * kPageSize + 1, rng));
  }
  return problems;
}

// Memory that is poison until HeadNormRopeAndKvWrite has run: queries, probes and the last key and
// value of every sequence, alone on its page. Norm and rotation leave values as they are.
class NewTokens {
 public:
  NewTokens(const std::vector<AttentionProblem>& problems, const ParallaxDecodeParams& decode)
      : table_(OneRotation(problems.front().head_dim)),
        positions_(std::vector<int>(problems.size(), 0)),
        slots_(Slots(problems, decode)),
        qrkv_(Rows(problems)) {
    const Device device{DeviceType::kCuda, 0};
    const auto tokens = static_cast<int64_t>(problems.size());
    const auto width = static_cast<int64_t>(qrkv_.size()) / tokens;
    const auto poisoned = [](const ConstTensorView& rows) {
      void* const data = const_cast<void*>(rows.data);
      Require(cudaMemset(data, 0xff, rows.shape[0] * rows.strides[0] * sizeof(__nv_bfloat16)));
      TensorView tensor(data, rows.dtype, {rows.shape[0], rows.shape[1], rows.shape[2]},
                        rows.device);
      tensor.strides = rows.strides;
      return tensor;
    };
    params_.qrkv = ConstTensorView(qrkv_.data(), DType::kBFloat16, {tokens, width}, device);
    params_.q = poisoned(decode.q);
    params_.r = poisoned(decode.r);
    params_.table =
        ConstTensorView(table_.data(), DType::kFloat32, {1, problems.front().head_dim}, device);
    params_.positions = positions_.span();
    params_.slot_mapping = slots_.span();
    params_.cache = decode.cache;
  }

  void Write(int32_t holds_next_from = kNeverHolds) const {
    HeadNormRopeParams params = params_;
    params.holds_next_from = holds_next_from;
    HeadNormRopeAndKvWrite(params, Stream(0, nullptr));
  }

 private:
  static std::vector<float> OneRotation(int head_dim) {
    std::vector<float> cos_then_sin(head_dim, 0.0f);
    std::fill_n(cos_then_sin.begin(), head_dim / 2, 1.0f);
    return cos_then_sin;
  }

  static std::vector<int64_t> Slots(const std::vector<AttentionProblem>& problems,
                                    const ParallaxDecodeParams& decode) {
    std::vector<int64_t> slots;
    for (size_t i = 0; i < problems.size(); ++i) {
      const int last = problems[i].context - 1;
      int page;
      Require(cudaMemcpy(&page, decode.block_tables + i * decode.max_blocks + last / kPageSize,
                         sizeof(page), cudaMemcpyDeviceToHost));
      slots.push_back(int64_t{page} * kPageSize + last % kPageSize);
      Require(cudaMemset(decode.cache.data + page * decode.cache.page_elements(), 0xff,
                         decode.cache.page_elements() * sizeof(__nv_bfloat16)));
    }
    return slots;
  }

  static std::vector<__nv_bfloat16> Rows(const std::vector<AttentionProblem>& problems) {
    std::vector<__nv_bfloat16> rows;
    for (const AttentionProblem& problem : problems) {
      const auto key_size = problem.kv_heads * problem.head_dim;
      for (const float x : problem.q) rows.push_back(__float2bfloat16(x));
      for (const float x : problem.r) rows.push_back(__float2bfloat16(x));
      for (auto x = problem.k.end() - key_size; x != problem.k.end(); ++x) {
        rows.push_back(__float2bfloat16(*x));
      }
      for (auto x = problem.v.end() - key_size; x != problem.v.end(); ++x) {
        rows.push_back(__float2bfloat16(*x));
      }
    }
    return rows;
  }

  DeviceArray<float> table_;
  DeviceArray<int> positions_;
  DeviceArray<int64_t> slots_;
  DeviceArray<__nv_bfloat16> qrkv_;
  HeadNormRopeParams params_;
};

struct EarlyBatch {
  int sequences;
  int pages;  // of old keys, each
  int window = 0;
};

class DecodeEarlyLaunches : public testing::TestWithParam<std::tuple<int, EarlyBatch>> {};

// The kernel before it is itself held up, while decode has long begun to read.
TEST_P(DecodeEarlyLaunches, WaitForWhatTheKernelBeforeThemWrites) {
  const auto& [head_dim, early] = GetParam();
  std::mt19937 rng(7);
  const auto problems =
      OneRowEach({.head_dim = head_dim, .window = early.window}, early.sequences, early.pages, rng);
  for (const int32_t holds_next_from : {kNeverHolds, kNeverHolds, 0}) {  // the first loads kernels
    DecodeBatch batch(problems, rng);
    const NewTokens tokens(problems, batch.params());
    ParallaxDecodeParams params = batch.params();
    params.programmatic_launch = true;
    HoldStream(/*nanoseconds=*/1'000'000, Stream(0, nullptr));
    tokens.Write(holds_next_from);
    ParallaxDecode(params, ReadDeviceProperties(0), Stream(0, nullptr));
    const auto outs = batch.ReadOut();
    for (int i = 0; i < early.sequences; ++i) {
      EXPECT_LT(RelativeError(outs[i], reference::Attention(problems[i])), kTolerance)
          << "sequence " << i << " of " << early.sequences << ", held from " << holds_next_from;
    }
  }
}

// In clusters of 8, 4 and 2 and by single CTAs. All CTAs have pages of old keys, and one of each
// cluster has the new key's besides.
INSTANTIATE_TEST_SUITE_P(
    Decode, DecodeEarlyLaunches,
    testing::Combine(testing::Values(64, 128),
                     testing::Values(EarlyBatch{1, 19}, EarlyBatch{1, 40, /*window=*/1100},
                                     EarlyBatch{3, 9}, EarlyBatch{6, 5}, EarlyBatch{40, 3})),
    [](const auto& info) {
      const EarlyBatch& early = std::get<1>(info.param);
      return "Sequences" + std::to_string(early.sequences) + "Pages" + std::to_string(early.pages) +
             "Dim" + std::to_string(std::get<0>(info.param));
    });

// What a kernel finds in `out` that starts early behind what is on the default stream.
class CopyOfOut {
 public:
  explicit CopyOfOut(const TensorView& out) : out_(out), copy_(out.shape[0] * out.strides[0]) {}

  void Enqueue() {
    EarlyCopy(static_cast<const uint16_t*>(out_.data), copy_.data(),
              static_cast<int64_t>(copy_.size()), Stream(0, nullptr));
  }
  std::vector<uint16_t> Read() const { return copy_.Read(); }

 private:
  const TensorView out_;
  DeviceArray<uint16_t> copy_;
};

// Prefill's keys keep it busy long after decode's are read: a kernel behind both must find what
// both wrote. And decode must not read before the kernel has written that prefill itself waits for:
// not even where prefill has so few blocks that all of them run at once with that one.
TEST(DecodeEarlyLaunchTest, BesidePrefillWaitsForItsInputsAndCompletesAfterIt) {
  std::mt19937 rng(8);
  const DeviceProperties device = ReadDeviceProperties(0);
  const std::vector<AttentionProblem> prompts = {
      RandomProblem({.query_heads = 8, .kv_heads = 4}, 300, 6000, rng),
      RandomProblem({.query_heads = 1, .kv_heads = 1}, 3, 20000, rng)};
  for (const AttentionProblem& prompt : prompts) {
    PrefillBatch prefill({prompt}, rng);
    CopyOfOut prefilled(prefill.params().out);
    prefill.Run();
    prefilled.Enqueue();
    const std::vector<uint16_t> expected = prefilled.Read();
    for (const int sequences : {1, 40, 1, 40}) {  // again, with all kernels loaded
      const auto problems = OneRowEach({}, sequences, /*pages=*/3, rng);
      DecodeBatch batch(problems, rng);
      const NewTokens tokens(problems, batch.params());
      ParallaxDecodeParams params = batch.params();
      params.beside_preceding = true;
      prefill.batch().PoisonOut();
      prefill.params().programmatic_launch = true;
      HoldStream(/*nanoseconds=*/1'000'000, Stream(0, nullptr));
      tokens.Write();
      prefill.Enqueue(device, nullptr);
      ParallaxDecode(params, device, Stream(0, nullptr));
      prefilled.Enqueue();
      EXPECT_EQ(prefilled.Read(), expected) << sequences << " sequences beside it";
      const auto outs = batch.ReadOut();
      for (int i = 0; i < sequences; ++i) {
        EXPECT_LT(RelativeError(outs[i], reference::Attention(problems[i])), kTolerance)
            << "sequence " << i << " of " << sequences;
      }
    }
  }
}

}  // namespace
}  // namespace parallax::kernels::cuda
