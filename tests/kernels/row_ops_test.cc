// RMSNorm, per-head norm with RoPE, the SwiGLU gate and embedding, against double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/embedding.h"
#include "kernels/half_float.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/silu_and_mul.h"

namespace parallax::kernels {
namespace {

using Matrix = std::vector<float>;

Matrix RandomMatrix(size_t size, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  Matrix values(size);
  for (float& value : values) value = normal(rng);
  return values;
}

TensorView View(Matrix& matrix, std::initializer_list<int64_t> shape) {
  return TensorView(matrix.data(), DType::kFloat32, shape);
}

class RowOpsTest : public testing::Test {
 protected:
  std::mt19937 rng_{1};
  ThreadPool pool_{2};
  Stream stream_{pool_};
};

double Normed(const Matrix& x, const Matrix& weight, int64_t hidden, double epsilon, int64_t i) {
  double squares = 0.0;
  const int64_t row = i / hidden;
  for (int64_t j = 0; j < hidden; ++j) squares += double{x[row * hidden + j]} * x[row * hidden + j];
  return x[i] / std::sqrt(squares / hidden + epsilon) * weight[i % hidden];
}

TEST_F(RowOpsTest, RmsNorm) {
  for (int64_t hidden : {1, 15, 16, 17, 384, 1024}) {
    for (int64_t tokens : {0, 1, 3, 200}) {
      Matrix x = RandomMatrix(tokens * hidden, rng_);
      Matrix weight = RandomMatrix(hidden, rng_);
      Matrix out(x.size());
      RmsNorm(View(x, {tokens, hidden}), View(weight, {hidden}), 1e-5f, View(out, {tokens, hidden}),
              stream_);
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(out[i], Normed(x, weight, hidden, 1e-5, i), 1e-5) << hidden;
      }
    }
  }
}

TEST_F(RowOpsTest, AddRmsNormUpdatesTheResidual) {
  constexpr int64_t kTokens = 5;
  constexpr int64_t kHidden = 70;
  Matrix x = RandomMatrix(kTokens * kHidden, rng_);
  Matrix residual = RandomMatrix(x.size(), rng_);
  Matrix weight = RandomMatrix(kHidden, rng_);
  Matrix sum = residual;
  for (size_t i = 0; i < x.size(); ++i) sum[i] += x[i];
  const TensorView x_view = View(x, {kTokens, kHidden});
  AddRmsNorm(x_view, View(residual, {kTokens, kHidden}), View(weight, {kHidden}), 1e-6f, x_view,
             stream_);
  EXPECT_EQ(residual, sum);
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(x[i], Normed(sum, weight, kHidden, 1e-6, i), 1e-5);
  }
}

TEST_F(RowOpsTest, RowsDoNotDependOnTheBatch) {
  constexpr int64_t kTokens = 300;
  constexpr int64_t kHidden = 200;
  Matrix x = RandomMatrix(kTokens * kHidden, rng_);
  Matrix weight = RandomMatrix(kHidden, rng_);
  Matrix together(x.size());
  Matrix alone(x.size());
  RmsNorm(View(x, {kTokens, kHidden}), View(weight, {kHidden}), 1e-6f,
          View(together, {kTokens, kHidden}), stream_);
  for (int64_t row = 0; row < kTokens; ++row) {
    RmsNorm(TensorView(x.data() + row * kHidden, DType::kFloat32, {1, kHidden}),
            View(weight, {kHidden}), 1e-6f,
            TensorView(alone.data() + row * kHidden, DType::kFloat32, {1, kHidden}), stream_);
  }
  EXPECT_EQ(alone, together);
}

// One head by the formula in kernels/rope.h.
void RotateExactly(const std::vector<double>& frequency, int position, double* x) {
  const size_t half = frequency.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle = position * frequency[i];
    const double low = x[i];
    const double high = x[i + half];
    x[i] = low * std::cos(angle) - high * std::sin(angle);
    x[i + half] = high * std::cos(angle) + low * std::sin(angle);
  }
}

class HeadNormRopeTest : public RowOpsTest {
 protected:
  static constexpr int64_t kTokens = 7;
  static constexpr int64_t kMaxPositions = 5000;

  void Prepare(int64_t head_dim) {
    head_dim_ = head_dim;
    frequency_.clear();
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      frequency_.push_back(std::pow(10000.0, -2.0 * i / head_dim));
    }
    table_.resize(kMaxPositions * head_dim);
    FillRopeTable(frequency_, View(table_, {kMaxPositions, head_dim}));
    params_ = {};
    params_.table = View(table_, {kMaxPositions, head_dim});
    params_.positions = positions_;
    params_.norm_epsilon = 1e-6f;
  }

  // What an operand of `heads` heads should become.
  std::vector<double> Expected(const Matrix& x, int64_t heads, const Matrix& weight) {
    std::vector<double> expected(x.begin(), x.end());
    for (int64_t row = 0; row < kTokens * heads; ++row) {
      for (int64_t d = 0; d < head_dim_ && !weight.empty(); ++d) {
        expected[row * head_dim_ + d] = Normed(x, weight, head_dim_, 1e-6, row * head_dim_ + d);
      }
      RotateExactly(frequency_, positions_[row / heads], expected.data() + row * head_dim_);
    }
    return expected;
  }

  int64_t head_dim_ = 0;
  std::vector<double> frequency_;
  Matrix table_;
  const std::vector<int32_t> positions_ = {0, 1, 2, 63, 64, 1000, 4999};
  HeadNormRopeParams params_;
};

TEST_F(HeadNormRopeTest, AgreesWithDoublePrecision) {
  for (int64_t head_dim : {2, 16, 40, 64, 128}) {
    for (bool norm : {false, true}) {
      Prepare(head_dim);
      Matrix weight = RandomMatrix(head_dim, rng_);
      Matrix q = RandomMatrix(kTokens * 4 * head_dim, rng_);
      Matrix r = RandomMatrix(kTokens * 4 * head_dim, rng_);
      Matrix k = RandomMatrix(kTokens * 2 * head_dim, rng_);
      const Matrix used_weight = norm ? weight : Matrix();
      const auto expected_q = Expected(q, 4, used_weight);
      const auto expected_r = Expected(r, 4, {});
      const auto expected_k = Expected(k, 2, used_weight);
      params_.q.x = View(q, {kTokens, 4, head_dim});
      params_.r.x = View(r, {kTokens, 4, head_dim});
      params_.k.x = View(k, {kTokens, 2, head_dim});
      if (norm) params_.q.weight = params_.k.weight = View(weight, {head_dim});
      HeadNormRope(params_, stream_);
      for (size_t i = 0; i < q.size(); ++i) ASSERT_NEAR(q[i], expected_q[i], 2e-5);
      for (size_t i = 0; i < r.size(); ++i) ASSERT_NEAR(r[i], expected_r[i], 2e-5);
      for (size_t i = 0; i < k.size(); ++i) ASSERT_NEAR(k[i], expected_k[i], 2e-5);
    }
  }
}

// q, r and k as slices of one fused projection; r absent.
TEST_F(HeadNormRopeTest, RotatesSlicesInPlace) {
  Prepare(16);
  constexpr int64_t kWidth = 6 * 16;  // two heads of q, one of k, three of something else
  Matrix fused = RandomMatrix(kTokens * kWidth, rng_);
  const Matrix before = fused;
  Matrix q;
  for (int64_t token = 0; token < kTokens; ++token) {
    q.insert(q.end(), fused.begin() + token * kWidth, fused.begin() + token * kWidth + 32);
  }
  const auto expected = Expected(q, 2, {});
  params_.q.x = View(fused, {kTokens, 2, 16});
  params_.q.x.strides[0] = kWidth;
  HeadNormRope(params_, stream_);
  for (int64_t i = 0; i < kTokens * kWidth; ++i) {
    const int64_t column = i % kWidth;
    if (column < 32) {
      ASSERT_NEAR(fused[i], expected[i / kWidth * 32 + column], 2e-5);
    } else {
      ASSERT_EQ(fused[i], before[i]);
    }
  }
}

TEST_F(HeadNormRopeTest, RefusesAPositionOutsideTheTable) {
  Prepare(16);
  Matrix q(kTokens * 16);
  const std::vector<int32_t> positions = {0, 1, 2, 3, 4, 5, kMaxPositions};
  params_.positions = positions;
  params_.q.x = View(q, {kTokens, 1, 16});
  EXPECT_THROW(HeadNormRope(params_, stream_), KernelError);
}

TEST_F(RowOpsTest, SiluAndMul) {
  for (int64_t width : {1, 16, 21, 3072}) {
    constexpr int64_t kTokens = 3;
    Matrix gate_up = RandomMatrix(kTokens * 2 * width, rng_);
    gate_up[0] = -200.0f;
    Matrix out(kTokens * width);
    SiluAndMul(View(gate_up, {kTokens, 2 * width}), View(out, {kTokens, width}), stream_);
    for (int64_t i = 0; i < kTokens * width; ++i) {
      const int64_t at = i / width * 2 * width + i % width;
      const double gate = gate_up[at];
      ASSERT_NEAR(out[i], gate / (1.0 + std::exp(-gate)) * gate_up[at + width], 1e-5);
    }
  }
}

TEST_F(RowOpsTest, EmbeddingOfEveryType) {
  constexpr int64_t kVocab = 11;
  const std::vector<int32_t> ids = {10, 0, 3, 3};
  for (int64_t hidden : {1, 16, 50}) {
    const Matrix table = RandomMatrix(kVocab * hidden, rng_);
    std::vector<uint16_t> brain;
    std::vector<uint16_t> half;
    for (float value : table) brain.push_back(FloatToBFloat16(value));
    for (float value : table) half.push_back(FloatToFloat16(value));
    Matrix out(ids.size() * hidden);
    const TensorView out_view = View(out, {4, hidden});
    const auto at = [&](size_t i) { return ids[i / hidden] * hidden + i % hidden; };
    Embedding(ConstTensorView(table.data(), DType::kFloat32, {kVocab, hidden}), ids, out_view,
              stream_);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], table[at(i)]);
    Embedding(ConstTensorView(brain.data(), DType::kBFloat16, {kVocab, hidden}), ids, out_view,
              stream_);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], BFloat16ToFloat(brain[at(i)]));
    Embedding(ConstTensorView(half.data(), DType::kFloat16, {kVocab, hidden}), ids, out_view,
              stream_);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], Float16ToFloat(half[at(i)]));
  }
}

TEST_F(RowOpsTest, EmbeddingRefusesIdsOutsideTheTable) {
  Matrix table(4 * 2);
  Matrix out(2);
  for (int32_t id : {-1, 4}) {
    const std::vector<int32_t> ids = {id};
    EXPECT_THROW(Embedding(View(table, {4, 2}), ids, View(out, {1, 2}), stream_), KernelError);
  }
}

}  // namespace
}  // namespace parallax::kernels
