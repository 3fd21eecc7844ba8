// RMSNorm, the SwiGLU gate, gathers and page copies against plain loops in double precision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/check.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/kv_cache_write.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/silu_and_mul.h"
#include "tests/kernels/cuda/row_ops/bfloat16_values.h"
#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {
namespace {

constexpr Device kDevice = {DeviceType::kCuda, 0};
const Stream kStream(0, nullptr);

template <typename T>
constexpr DType DTypeOf() {
  return std::is_same_v<T, float> ? DType::kFloat32 : DType::kBFloat16;
}

// [rows, width], with row_stride elements from row to row.
template <typename T>
TensorView Rows(const DeviceArray<T>& array, int64_t rows, int64_t width, int64_t row_stride = 0) {
  TensorView view(array.data(), DTypeOf<T>(), {rows, width}, kDevice);
  if (row_stride > 0) view.strides[0] = row_stride;
  return view;
}

template <typename T>
TensorView Row(const DeviceArray<T>& array) {
  return {array.data(), DTypeOf<T>(), {static_cast<int64_t>(array.size())}, kDevice};
}

struct NormShape {
  int tokens;
  int hidden;
};

class RmsNormTest : public testing::TestWithParam<NormShape> {
 protected:
  // RmsNorm of one row in double precision.
  std::vector<double> Reference(const float* x) const {
    double squares = 0.0;
    for (int i = 0; i < hidden_; ++i) squares += double{x[i]} * x[i];
    std::vector<double> result(hidden_);
    for (int i = 0; i < hidden_; ++i) {
      result[i] = x[i] / std::sqrt(squares / hidden_ + kEpsilon) * weight_[i];
    }
    return result;
  }

  void ExpectNormOf(const std::vector<float>& x, const std::vector<__nv_bfloat16>& out) const {
    for (int row = 0; row < tokens_; ++row) {
      const std::vector<double> exact = Reference(x.data() + size_t(row) * hidden_);
      for (int i = 0; i < hidden_; ++i) {
        ASSERT_TRUE(IsRoundedFrom(exact[i], out[size_t(row) * hidden_ + i]))
            << "row " << row << " column " << i << " is "
            << __bfloat162float(out[size_t(row) * hidden_ + i]) << ", should be " << exact[i];
      }
    }
  }

  static constexpr float kEpsilon = 1e-5f;
  const int tokens_ = GetParam().tokens;
  const int hidden_ = GetParam().hidden;
  const size_t size_ = size_t(tokens_) * hidden_;
  std::mt19937 rng_{static_cast<unsigned>(tokens_ * 31 + hidden_)};
  const std::vector<float> weight_ = RandomFloat(hidden_, 1.0f, rng_);
};

TEST_P(RmsNormTest, MatchesTheFormula) {
  const std::vector<float> x = RandomFloat(size_, 3.0f, rng_);
  const DeviceArray<float> device_x(x);
  const DeviceArray<float> weight(weight_);
  const DeviceArray<__nv_bfloat16> out(size_);
  RmsNorm(Rows(device_x, tokens_, hidden_), Row(weight), kEpsilon, Rows(out, tokens_, hidden_),
          kStream);
  ExpectNormOf(x, out.Read());
}

TEST_P(RmsNormTest, AddsToTheResidualFirst) {
  const std::vector<__nv_bfloat16> x = RandomBFloat16(size_, 1.0f, rng_);
  std::vector<float> residual = RandomFloat(size_, 30.0f, rng_);
  const DeviceArray<__nv_bfloat16> device_x(x);
  const DeviceArray<float> device_residual(residual);
  const DeviceArray<float> weight(weight_);
  const TensorView rows = Rows(device_x, tokens_, hidden_);
  AddRmsNorm(rows, Rows(device_residual, tokens_, hidden_), Row(weight), kEpsilon, rows, kStream);
  for (size_t i = 0; i < size_; ++i) residual[i] += __bfloat162float(x[i]);
  EXPECT_EQ(device_residual.Read(), residual);
  ExpectNormOf(residual, device_x.Read());
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNormTest,
                         testing::Values(NormShape{1, 8}, NormShape{3, 64}, NormShape{2, 264},
                                         NormShape{5, 1024}, NormShape{33, 2048},
                                         NormShape{2, 8192}, NormShape{2, 8200},
                                         NormShape{3, 16384}, NormShape{1000, 128}));

TEST(RmsNormErrorsTest, NamesTheOperand) {
  const DeviceArray<float> x(12);
  const DeviceArray<__nv_bfloat16> out(12);
  const DeviceArray<float> weight(12);
  const auto message = [&](const TensorView& view, const TensorView& out_view) -> std::string {
    try {
      RmsNorm(view, Row(weight), 1e-6f, out_view, kStream);
    } catch (const KernelError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message(Rows(x, 1, 12), Rows(out, 1, 12)), testing::HasSubstr("x: must have rows"));
  EXPECT_THAT(message(Rows(x, 2, 6), Rows(out, 2, 6)), testing::HasSubstr("weight"));
  EXPECT_THAT(message(Rows(out, 1, 12), Rows(out, 1, 12)), testing::HasSubstr("float32"));
}

TEST(SiluAndMulTest, MatchesTheFormula) {
  std::mt19937 rng(11);
  for (const auto& [tokens, width] : {std::pair{1, 8}, {3, 1000}, {17, 3072}, {300, 64}}) {
    // Large gates of both signs too: the exponential must not overflow into NaN.
    const std::vector<__nv_bfloat16> gate_up =
        RandomBFloat16(size_t(2) * tokens * width, tokens == 3 ? 100.0f : 2.0f, rng);
    const DeviceArray<__nv_bfloat16> device_gate_up(gate_up);
    const DeviceArray<__nv_bfloat16> out(size_t(tokens) * width);
    SiluAndMul(Rows(device_gate_up, tokens, 2 * width), Rows(out, tokens, width), kStream);
    const std::vector<__nv_bfloat16> result = out.Read();
    for (int row = 0; row < tokens; ++row) {
      for (int i = 0; i < width; ++i) {
        const size_t gate_index = size_t(row) * 2 * width + i;
        const double gate = __bfloat162float(gate_up[gate_index]);
        const double up = __bfloat162float(gate_up[gate_index + width]);
        ASSERT_TRUE(
            IsRoundedFrom(gate / (1.0 + std::exp(-gate)) * up, result[size_t(row) * width + i]))
            << "gate " << gate << " up " << up;
      }
    }
  }
}

TEST(EmbeddingTest, GathersByIdAndBySlot) {
  constexpr int kVocab = 37;
  constexpr int kHidden = 1032;
  std::mt19937 rng(12);
  const std::vector<__nv_bfloat16> table = RandomBFloat16(size_t(kVocab) * kHidden, 1.0f, rng);
  const DeviceArray<__nv_bfloat16> device_table(table);
  const DeviceArray<int32_t> slot_tokens(std::vector<int32_t>{5, 7});
  // By id, by slot, outside the table, by a slot that does not exist.
  const DeviceArray<int32_t> ids(std::vector<int32_t>{0, 36, -2, -1, 37, -3, 1 << 30});
  const std::vector<int> rows = {0, 36, 7, 5, -1, -1, -1};
  const DeviceArray<float> out(ids.size() * kHidden);
  Embedding({.table = Rows(device_table, kVocab, kHidden),
             .ids = ids.span(),
             .slot_tokens = slot_tokens.span(),
             .out = Rows(out, static_cast<int64_t>(ids.size()), kHidden)},
            kStream);
  const std::vector<float> result = out.Read();
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int column = 0; column < kHidden; ++column) {
      const float expected =
          rows[i] < 0 ? 0.0f : __bfloat162float(table[size_t(rows[i]) * kHidden + column]);
      ASSERT_EQ(result[i * kHidden + column], expected) << "row " << i << " column " << column;
    }
  }
}

TEST(GatherRowsTest, CopiesRowsOfAStridedTensor) {
  constexpr int kTokens = 20;
  constexpr int kHidden = 64;
  constexpr int kStride = 80;
  std::mt19937 rng(13);
  const std::vector<__nv_bfloat16> x = RandomBFloat16(size_t(kTokens) * kStride, 1.0f, rng);
  const DeviceArray<__nv_bfloat16> device_x(x);
  const std::vector<int32_t> rows = {19, 0, 3, 3};
  const DeviceArray<int32_t> device_rows(rows);
  const DeviceArray<__nv_bfloat16> out(rows.size() * kHidden);
  GatherRows(Rows(device_x, kTokens, kHidden, kStride), device_rows.span(),
             Rows(out, static_cast<int64_t>(rows.size()), kHidden), kStream);
  const std::vector<__nv_bfloat16> result = out.Read();
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int column = 0; column < kHidden; ++column) {
      ASSERT_EQ(__bfloat162float(result[i * kHidden + column]),
                __bfloat162float(x[size_t(rows[i]) * kStride + column]));
    }
  }
}

TEST(CopyKvPagesTest, CopiesInEveryLayerAndNothingElse) {
  constexpr int kPages = 9;
  constexpr int kLayers = 130;  // more than one launch takes
  constexpr int64_t kPageElements = int64_t{2} * 64 * 64;
  std::mt19937 rng(14);
  std::vector<std::vector<__nv_bfloat16>> contents;
  std::vector<DeviceArray<__nv_bfloat16>> arrays;
  std::vector<PagedKvCache> layers;
  for (int i = 0; i < kLayers; ++i) {
    contents.push_back(RandomBFloat16(kPages * kPageElements, 1.0f, rng));
    arrays.emplace_back(contents.back());
    layers.push_back({arrays.back().data(), kPages, /*num_kv_heads=*/1, /*head_dim=*/64});
  }
  const std::vector<PageCopy> copies = {{0, 3}, {0, 8}, {5, 1}, {-1, 2}, {4, kPages}};
  const DeviceArray<PageCopy> device_copies(copies);
  CopyKvPages(device_copies.span(), layers, kStream);
  for (int i = 0; i < kLayers; ++i) {
    for (const PageCopy& copy : std::span(copies).first(3)) {
      std::copy_n(contents[i].begin() + copy.source * kPageElements, kPageElements,
                  contents[i].begin() + copy.destination * kPageElements);
    }
    const std::vector<__nv_bfloat16> result = arrays[i].Read();
    ASSERT_EQ(std::memcmp(result.data(), contents[i].data(), result.size() * 2), 0)
        << "layer " << i;
  }
}

}  // namespace
}  // namespace parallax::kernels::cuda
