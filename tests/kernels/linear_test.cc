#include "kernels/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "hwy/targets.h"
#include "kernels/check.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/half_float.h"

namespace parallax::kernels {
namespace {

constexpr DType kWeightTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

std::vector<float> RandomVector(size_t size, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(rng);
  return values;
}

// A weight [n, k] in its dtype and the floats that it stands for.
struct TestWeight {
  TestWeight(int64_t rows, int64_t columns, DType weight_dtype, std::mt19937& rng)
      : n(rows), k(columns), dtype(weight_dtype), floats(RandomVector(rows * columns, rng)) {
    for (float& value : floats) {
      if (dtype == DType::kFloat32) continue;
      const bool brain = dtype == DType::kBFloat16;
      halves.push_back(brain ? FloatToBFloat16(value) : FloatToFloat16(value));
      value = brain ? BFloat16ToFloat(halves.back()) : Float16ToFloat(halves.back());
    }
  }
  ConstTensorView view() const {
    const void* data = dtype == DType::kFloat32 ? static_cast<const void*>(floats.data())
                                                : static_cast<const void*>(halves.data());
    return ConstTensorView(data, dtype, {n, k});
  }

  int64_t n, k;
  DType dtype;
  std::vector<float> floats;
  std::vector<uint16_t> halves;
};

// y of a plain call with all of the weight's columns.
std::vector<float> RunLinear(const TestWeight& weight, const std::vector<float>& x, int threads) {
  ThreadPool pool(threads);
  const Stream stream(pool);
  const PackedWeight packed(weight.view(), stream);
  const int64_t rows = static_cast<int64_t>(x.size()) / weight.k;
  std::vector<float> y(rows * weight.n, std::nanf(""));
  LinearParams params;
  params.x = ConstTensorView(x.data(), DType::kFloat32, {rows, weight.k});
  params.weight = &packed;
  params.y = TensorView(y.data(), DType::kFloat32, {rows, weight.n});
  Linear(params, stream);
  return y;
}

double Exact(const TestWeight& weight, const std::vector<float>& x, int64_t row, int64_t column) {
  double sum = 0.0;
  for (int64_t k = 0; k < weight.k; ++k) {
    sum += double{x[row * weight.k + k]} * weight.floats[column * weight.k + k];
  }
  return sum;
}

TEST(LinearTest, AgreesWithDoublePrecision) {
  std::mt19937 rng(1);
  for (DType dtype : kWeightTypes) {
    for (int64_t n : {1, 15, 16, 17, 100}) {
      for (int64_t k : {1, 3, 64, 700}) {
        const TestWeight weight(n, k, dtype, rng);
        for (int64_t rows : {1, 2, 5, 6, 7, 13, 49}) {
          const std::vector<float> x = RandomVector(rows * k, rng);
          const std::vector<float> y = RunLinear(weight, x, /*threads=*/2);
          for (int64_t i = 0; i < rows * n; ++i) {
            ASSERT_NEAR(y[i], Exact(weight, x, i / n, i % n), 1e-5 * k)
                << DTypeName(dtype) << " n " << n << " k " << k << " rows " << rows;
          }
        }
      }
    }
  }
}

// The result is one chain of fused multiply-adds over k: not just the same for every number of
// rows and threads, but this very value.
TEST(LinearTest, IsOneFusedChainOverK) {
  std::mt19937 rng(2);
  for (DType dtype : kWeightTypes) {
    const TestWeight weight(37, 600, dtype, rng);
    const std::vector<float> x = RandomVector(250 * weight.k, rng);
    std::vector<float> chain(250 * weight.n);
    for (int64_t i = 0; i < 250 * weight.n; ++i) {
      for (int64_t k = 0; k < weight.k; ++k) {
        chain[i] = std::fma(x[i / weight.n * weight.k + k],
                            weight.floats[i % weight.n * weight.k + k], chain[i]);
      }
    }
    for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 48, 49, 100, 200, 250}) {
      const std::vector<float> head(x.begin(), x.begin() + rows * weight.k);
      const std::vector<float> expected(chain.begin(), chain.begin() + rows * weight.n);
      for (int threads : {1, 2, 3}) {
        EXPECT_EQ(RunLinear(weight, head, threads), expected)
            << DTypeName(dtype) << " rows " << rows << " threads " << threads;
      }
    }
  }
}

// All vector widths that the kernels were compiled for, that this machine has and that fuse. A width
// that was not compiled would fall back to one that does not.
TEST(LinearTest, VectorWidthsAgree) {
  std::mt19937 rng(3);
  const TestWeight weight(100, 300, DType::kBFloat16, rng);
  const std::vector<float> x = RandomVector(60 * weight.k, rng);
  const std::vector<float> expected = RunLinear(weight, x, 2);
  for (int64_t target : {HWY_AVX2, HWY_AVX3}) {
    if ((hwy::SupportedTargets() & HWY_TARGETS & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    EXPECT_EQ(RunLinear(weight, x, 2), expected) << hwy::TargetName(target);
    hwy::SetSupportedTargetsForTest(0);
  }
}

class LinearOptionsTest : public testing::Test {
 protected:
  static constexpr int64_t kRows = 9;
  LinearOptionsTest() {
    params_.x = ConstTensorView(x_.data(), DType::kFloat32, {kRows, 50});
    params_.weight = &packed_;
    params_.y = TensorView(y_.data(), DType::kFloat32, {kRows, 40});
  }
  void ExpectError(const std::string& message) {
    try {
      Linear(params_, stream_);
      FAIL() << "no error: " << message;
    } catch (const KernelError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(message));
    }
  }

  std::mt19937 rng_{4};
  ThreadPool pool_{2};
  Stream stream_{pool_};
  TestWeight weight_{40, 50, DType::kBFloat16, rng_};
  std::vector<float> x_ = RandomVector(kRows * 50, rng_);
  std::vector<float> plain_ = RunLinear(weight_, x_, 1);
  PackedWeight packed_{weight_.view(), stream_};
  std::vector<float> y_ = std::vector<float>(kRows * 40);
  LinearParams params_;
};

TEST_F(LinearOptionsTest, BiasAndAccumulate) {
  const std::vector<float> bias = RandomVector(40, rng_);
  const std::vector<float> old = RandomVector(y_.size(), rng_);
  y_ = old;
  params_.bias = ConstTensorView(bias.data(), DType::kFloat32, {40});
  params_.accumulate = true;
  Linear(params_, stream_);
  for (size_t i = 0; i < y_.size(); ++i) EXPECT_EQ(y_[i], (plain_[i] + bias[i % 40]) + old[i]);
}

TEST_F(LinearOptionsTest, ColumnRangesAreSlicesOfTheWhole) {
  const std::vector<float> bias = RandomVector(40, rng_);
  params_.bias = ConstTensorView(bias.data(), DType::kFloat32, {40});
  for (const auto& [begin, end] : {std::pair{0, 16}, {16, 40}, {16, 33}, {32, 40}, {0, 1}}) {
    const int64_t width = end - begin;
    params_.y = TensorView(y_.data(), DType::kFloat32, {kRows, width});
    params_.column_begin = begin;
    params_.column_end = end;
    Linear(params_, stream_);
    for (int64_t i = 0; i < kRows * width; ++i) {
      const int64_t column = begin + i % width;
      EXPECT_EQ(y_[i], plain_[i / width * 40 + column] + bias[column]);
    }
  }
}

TEST_F(LinearOptionsTest, StridedRows) {
  std::vector<float> wide_x(kRows * 64, std::nanf(""));
  std::vector<float> wide_y(kRows * 48, 7.0f);
  for (int64_t row = 0; row < kRows; ++row) {
    std::copy_n(x_.begin() + row * 50, 50, wide_x.begin() + row * 64);
  }
  params_.x.data = wide_x.data();
  params_.x.strides[0] = 64;
  params_.y.data = wide_y.data();
  params_.y.strides[0] = 48;
  Linear(params_, stream_);
  for (int64_t i = 0; i < kRows * 48; ++i) {
    EXPECT_EQ(wide_y[i], i % 48 < 40 ? plain_[i / 48 * 40 + i % 48] : 7.0f);
  }
}

TEST_F(LinearOptionsTest, WeightsPackedTogetherAreStacked) {
  const TestWeight second(23, 50, DType::kBFloat16, rng_);
  const std::vector<ConstTensorView> views = {weight_.view(), second.view()};
  const PackedWeight both(views, stream_);
  EXPECT_EQ(both.num_outputs(), 63);
  EXPECT_EQ(both.size_bytes(), 64u * 50u * 2u);
  std::vector<float> y(kRows * 63);
  params_.weight = &both;
  params_.y = TensorView(y.data(), DType::kFloat32, {kRows, 63});
  Linear(params_, stream_);
  const std::vector<float> second_y = RunLinear(second, x_, 1);
  for (int64_t i = 0; i < kRows * 63; ++i) {
    const int64_t row = i / 63;
    const int64_t column = i % 63;
    EXPECT_EQ(y[i], column < 40 ? plain_[row * 40 + column] : second_y[row * 23 + column - 40]);
  }
}

TEST_F(LinearOptionsTest, RefusesByName) {
  const LinearParams good = params_;
  params_.x.shape[1] = 49;
  ExpectError("Linear: x: must have shape [*, 50], has [9, 49]");
  params_ = good;
  params_.y.dtype = DType::kBFloat16;
  ExpectError("Linear: y: must be float32, is bfloat16");
  params_ = good;
  params_.column_begin = 8;
  ExpectError("column_begin: must be a non-negative multiple of 16, is 8");
  params_ = good;
  params_.column_end = 41;
  ExpectError("column_end: must lie in [column_begin, 40], is 41");
  params_ = good;
  params_.x.strides[1] = 2;
  ExpectError("x: must have a contiguous last dimension, has stride 2");
  params_ = good;
  params_.x.device.type = DeviceType::kCuda;
  ExpectError("x: must be on the stream's device");
  params_ = good;
  params_.x.data = nullptr;
  ExpectError("x: must have data, is null");
  params_ = good;
  const PackedWeight empty;
  params_.weight = &empty;
  ExpectError("weight: must not be empty");
}

TEST_F(LinearOptionsTest, PackingRefusesMixedTypes) {
  const TestWeight other(4, 50, DType::kFloat16, rng_);
  const std::vector<ConstTensorView> views = {weight_.view(), other.view()};
  EXPECT_THROW(PackedWeight(views, stream_), KernelError);
}

}  // namespace
}  // namespace parallax::kernels
