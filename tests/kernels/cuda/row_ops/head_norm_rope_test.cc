// The fused per-head norm, rotation and cache write against plain loops in double precision.
#include "kernels/cuda/head_norm_rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/check.h"
#include "tests/kernels/cuda/hold_stream.h"
#include "tests/kernels/cuda/row_ops/bfloat16_values.h"
#include "tests/kernels/cuda/row_ops/device_array.h"

namespace parallax::kernels::cuda {
namespace {

constexpr Device kDevice = {DeviceType::kCuda, 0};
constexpr int kMaxPositions = 5000;
constexpr int kPages = 6;

struct Shape {
  int tokens;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  bool has_probe;
  bool has_norm;
  bool in_place;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.tokens << " tokens, " << shape.num_heads << "/" << shape.num_kv_heads
             << " heads of " << shape.head_dim << (shape.has_probe ? ", probe" : "")
             << (shape.has_norm ? ", norm" : "") << (shape.in_place ? ", in place" : "");
}

class HeadNormRopeTest : public testing::TestWithParam<Shape> {
 protected:
  HeadNormRopeTest() {
    std::iota(slots_.begin(), slots_.end(), 0);
    std::shuffle(slots_.begin(), slots_.end(), rng_);
    slots_.resize(shape_.tokens);
    if (shape_.tokens > 2) slots_[1] = -1;
    for (int i = 0; i < shape_.tokens; ++i) {
      positions_.push_back(static_cast<int32_t>(rng_() % kMaxPositions));
    }
    for (int position = 0; position < kMaxPositions; ++position) {
      for (int i = 0; i < shape_.head_dim; ++i) {
        const double frequency = std::pow(1e4, -2.0 * (i % half_) / shape_.head_dim);
        const double angle = position * frequency;
        table_.push_back(static_cast<float>(i < half_ ? std::cos(angle) : std::sin(angle)));
      }
    }
  }

  // A head of `token` as it should come out. weight null: no norm; v is not rotated.
  std::vector<double> Reference(int token, int head, const std::vector<float>* weight,
                                bool rotated) const {
    const int head_dim = shape_.head_dim;
    std::vector<double> x(head_dim);
    double squares = 0.0;
    for (int d = 0; d < head_dim; ++d) {
      x[d] = __bfloat162float(qrkv_[(size_t(token) * num_all_heads_ + head) * head_dim + d]);
      squares += x[d] * x[d];
    }
    if (weight != nullptr) {
      for (int d = 0; d < head_dim; ++d) {
        x[d] *= (*weight)[d] / std::sqrt(squares / head_dim + kEpsilon);
      }
    }
    if (!rotated) return x;
    std::vector<double> result(head_dim);
    const float* const row = table_.data() + size_t(positions_[token]) * head_dim;
    for (int i = 0; i < half_; ++i) {
      result[i] = x[i] * row[i] - x[i + half_] * row[i + half_];
      result[i + half_] = x[i + half_] * row[i] + x[i] * row[i + half_];
    }
    return result;
  }

  // Cancellation in the rotation leaves float32's error relative to the head's size.
  static void ExpectNear(double exact, double size, __nv_bfloat16 value) {
    ASSERT_LE(std::abs(__bfloat162float(value) - exact), 0x1.02p-8 * std::abs(exact) + 1e-6 * size)
        << "is " << __bfloat162float(value) << ", should be " << exact;
  }

  const Shape shape_ = GetParam();
  const int half_ = shape_.head_dim / 2;
  const int k_begin_ = shape_.num_heads * (shape_.has_probe ? 2 : 1);
  const int num_all_heads_ = k_begin_ + 2 * shape_.num_kv_heads;
  static constexpr float kEpsilon = 1e-6f;
  std::mt19937 rng_{static_cast<unsigned>(shape_.tokens * 7 + shape_.num_heads)};
  std::vector<int64_t> slots_ = std::vector<int64_t>(kPages * kPageSize);
  std::vector<int32_t> positions_;
  std::vector<float> table_;
  std::vector<__nv_bfloat16> qrkv_ =
      RandomBFloat16(size_t(shape_.tokens) * num_all_heads_ * shape_.head_dim, 2.0f, rng_);
  std::vector<float> q_weight_ = RandomFloat(shape_.head_dim, 1.0f, rng_);
  std::vector<float> r_weight_ = RandomFloat(shape_.head_dim, 1.0f, rng_);
  std::vector<float> k_weight_ = RandomFloat(shape_.head_dim, 1.0f, rng_);
};

TEST_P(HeadNormRopeTest, MatchesTheFormula) {
  const int64_t tokens = shape_.tokens;
  const int64_t heads = shape_.num_heads;
  const int64_t head_dim = shape_.head_dim;
  const int64_t row = num_all_heads_ * head_dim;
  const DeviceArray<__nv_bfloat16> qrkv(qrkv_);
  const DeviceArray<__nv_bfloat16> q_out(size_t(tokens * heads * head_dim));
  const DeviceArray<__nv_bfloat16> r_out(size_t(tokens * heads * head_dim));
  const DeviceArray<float> table(table_);
  const DeviceArray<float> q_weight(q_weight_);
  const DeviceArray<float> r_weight(r_weight_);
  const DeviceArray<float> k_weight(k_weight_);
  const DeviceArray<int32_t> positions(positions_);
  const DeviceArray<int64_t> slots(slots_);
  PagedKvCache cache = {nullptr, kPages, shape_.num_kv_heads, shape_.head_dim};
  const DeviceArray<__nv_bfloat16> cache_data(size_t(kPages * cache.page_elements()));
  cache.data = cache_data.data();

  HeadNormRopeParams params;
  params.qrkv = TensorView(qrkv.data(), DType::kBFloat16, {tokens, row}, kDevice);
  params.q = TensorView(q_out.data(), DType::kBFloat16, {tokens, heads, head_dim}, kDevice);
  if (shape_.has_probe) {
    params.r = TensorView(r_out.data(), DType::kBFloat16, {tokens, heads, head_dim}, kDevice);
  }
  if (shape_.in_place) {
    params.q.data = qrkv.data();
    params.r.data = qrkv.data() + heads * head_dim;
    params.q.strides[0] = params.r.strides[0] = row;
  }
  if (shape_.has_norm) {
    params.q_weight = ConstTensorView(q_weight.data(), DType::kFloat32, {head_dim}, kDevice);
    params.r_weight = ConstTensorView(r_weight.data(), DType::kFloat32, {head_dim}, kDevice);
    params.k_weight = ConstTensorView(k_weight.data(), DType::kFloat32, {head_dim}, kDevice);
  }
  params.norm_epsilon = kEpsilon;
  params.table = ConstTensorView(table.data(), DType::kFloat32, {kMaxPositions, head_dim}, kDevice);
  params.positions = positions.span();
  params.slot_mapping = slots.span();
  params.cache = cache;
  HeadNormRopeAndKvWrite(params, Stream(0, nullptr));

  const std::vector<__nv_bfloat16> in_place = qrkv.Read();
  const std::vector<__nv_bfloat16> q = q_out.Read();
  const std::vector<__nv_bfloat16> r = r_out.Read();
  std::vector<__nv_bfloat16> pages = cache_data.Read();
  const __nv_bfloat16 poison = __nv_bfloat16_raw{0xffff};
  const auto expect_head = [&](int token, int head, const std::vector<float>& weight, bool rotated,
                               const auto& element) {
    const std::vector<double> exact =
        Reference(token, head, shape_.has_norm && rotated ? &weight : nullptr, rotated);
    const double size =
        std::sqrt(std::inner_product(exact.begin(), exact.end(), exact.begin(), 0.0));
    for (int d = 0; d < head_dim; ++d) ExpectNear(exact[d], size, element(d));
  };
  for (int token = 0; token < tokens; ++token) {
    SCOPED_TRACE(testing::Message() << "token " << token);
    for (int head = 0; head < k_begin_; ++head) {
      const bool is_r = head >= heads;
      expect_head(token, head, is_r ? r_weight_ : q_weight_, true, [&](int d) {
        if (shape_.in_place) return in_place[token * row + head * head_dim + d];
        return (is_r ? r : q)[(token * heads + head % heads) * head_dim + d];
      });
    }
    if (slots_[token] < 0) continue;
    const int64_t page = slots_[token] / kPageSize;
    const int offset = static_cast<int>(slots_[token] % kPageSize);
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      // Each element is taken out of the cache, so that what is left must be poison.
      const auto take = [&](int64_t block) {
        return [&pages, block, offset, poison](int d) {
          return std::exchange(pages[block + KvBlockOffset(offset, d)], poison);
        };
      };
      expect_head(token, k_begin_ + head, k_weight_, true, take(cache.k_block_offset(page, head)));
      expect_head(token, k_begin_ + shape_.num_kv_heads + head, k_weight_, false,
                  take(cache.v_block_offset(page, head)));
    }
  }
  for (const __nv_bfloat16& value : pages) {
    ASSERT_EQ(__nv_bfloat16_raw(value).x, 0xffff) << "an element of no slot was written";
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, HeadNormRopeTest,
                         testing::Values(Shape{1, 16, 8, 128, true, true, true},
                                         Shape{1, 8, 8, 64, true, true, false},
                                         Shape{37, 16, 8, 128, true, true, false},
                                         Shape{37, 32, 8, 128, false, true, true},
                                         Shape{64, 5, 1, 64, true, false, true},
                                         Shape{300, 3, 1, 128, false, false, false}));

// Tokens at some positions, and when a kernel behind them starts that is launched early.
class StartOfNextTest : public testing::Test {
 protected:
  static constexpr int64_t kTokens = 2;
  static constexpr int64_t kHeadDim = 64;

  StartOfNextTest() {
    params_.qrkv = TensorView(qrkv_.data(), DType::kBFloat16, {kTokens, 3 * kHeadDim}, kDevice);
    params_.q = TensorView(qrkv_.data(), DType::kBFloat16, {kTokens, 1, kHeadDim}, kDevice);
    params_.q.strides[0] = 3 * kHeadDim;
    params_.table =
        ConstTensorView(table_.data(), DType::kFloat32, {kMaxPositions, kHeadDim}, kDevice);
    params_.positions = positions_.span();
    params_.slot_mapping = slots_.span();
    params_.cache = {page_.data(), 1, /*num_kv_heads=*/1, kHeadDim};
  }

  enum class Between { kNothing, kTheOp };

  // Whether it starts before the kernel has ended that the op comes behind.
  bool StartsEarly(Between between) {
    const DeviceArray<int64_t> ended(1);
    const DeviceArray<int64_t> started(1);
    for (int run = 0; run < 2; ++run) {  // the first loads the kernels
      HoldStream(/*nanoseconds=*/20'000'000, Stream(0, nullptr), ended.data());
      if (between == Between::kTheOp) HeadNormRopeAndKvWrite(params_, Stream(0, nullptr));
      RecordStart(started.data(), Stream(0, nullptr));
      Require(cudaDeviceSynchronize());
    }
    return started.Read().front() < ended.Read().front();
  }

  HeadNormRopeParams params_;

 private:
  const DeviceArray<__nv_bfloat16> qrkv_{kTokens * 3 * kHeadDim};
  const DeviceArray<float> table_{kMaxPositions * kHeadDim};
  const DeviceArray<__nv_bfloat16> page_{2 * kPageSize * kHeadDim};
  const DeviceArray<int32_t> positions_{std::vector<int32_t>{5, 300}};
  const DeviceArray<int64_t> slots_{std::vector<int64_t>{-1, -1}};
};

TEST_F(StartOfNextTest, IsHeldBackByPositionsFromTheOneGivenOn) {
  for (const int32_t from : {0, 5, 6, 300}) {
    params_.holds_next_from = from;
    EXPECT_FALSE(StartsEarly(Between::kTheOp)) << "from " << from;
  }
}

TEST_F(StartOfNextTest, IsEarlyElse) {
  // The GPU may work for other processes between two launches.
  const auto starts_early = [&](Between between) {
    return StartsEarly(between) || StartsEarly(between) || StartsEarly(between);
  };
  if (!starts_early(Between::kNothing)) GTEST_SKIP() << "no kernel starts early here";
  EXPECT_TRUE(starts_early(Between::kTheOp));
  params_.holds_next_from = 301;
  EXPECT_TRUE(starts_early(Between::kTheOp));
}

}  // namespace
}  // namespace parallax::kernels::cuda
