// Row-wise ops: RMSNorm, per-head norm and RoPE, the SwiGLU gate, embedding rows.
#include <cmath>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/row_ops.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

// 1 / sqrt(mean(x^2) + epsilon).
inline float InverseRms(const float* x, int64_t size, float epsilon) {
  Group sum = BroadcastGroup(0.0f);
  ForEachGroup(size, [&](int64_t i, int count) HWY_ATTR {
    const Group part = LoadGroupPart(x + i, count);
    for (int v = 0; v < kVectors; ++v) sum.v[v] = hn::MulAdd(part.v[v], part.v[v], sum.v[v]);
  });
  return 1.0f / std::sqrt(SumGroup(sum) / static_cast<float>(size) + epsilon);
}

// out = x * factor * weight.
inline void ScaleRow(const float* x, const float* weight, float factor, int64_t size, float* out) {
  const FloatVector factor_vector = hn::Set(FloatTag(), factor);
  ForEachGroup(size, [&](int64_t i, int count) HWY_ATTR {
    Group part = LoadGroupPart(x + i, count);
    const Group w = LoadGroupPart(weight + i, count);
    for (int v = 0; v < kVectors; ++v) {
      part.v[v] = hn::Mul(hn::Mul(part.v[v], factor_vector), w.v[v]);
    }
    StoreGroupPart(part, out + i, count);
  });
}

inline void AddRow(const float* x, int64_t size, float* to) {
  ForEachGroup(size, [&](int64_t i, int count) HWY_ATTR {
    Group sum = LoadGroupPart(to + i, count);
    const Group part = LoadGroupPart(x + i, count);
    for (int v = 0; v < kVectors; ++v) sum.v[v] = hn::Add(sum.v[v], part.v[v]);
    StoreGroupPart(sum, to + i, count);
  });
}

void AddRmsNormRows(const ConstTensorView& x, const TensorView& residual,
                    const ConstTensorView& weight, float epsilon, const TensorView& out,
                    ThreadPool& pool) {
  const int64_t hidden = x.shape[1];
  ParallelRows(pool, x.shape[0], hidden, [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = x.as<float>() + row * x.strides[0];
      if (residual.defined()) {
        float* const sum = residual.as<float>() + row * residual.strides[0];
        AddRow(from, hidden, sum);
        from = sum;
      }
      ScaleRow(from, weight.as<float>(), InverseRms(from, hidden, epsilon), hidden,
               out.as<float>() + row * out.strides[0]);
    }
  });
}

// Half-split rotation; see kernels/rope.h.
inline void RotateHead(const float* cosine, const float* sine, int64_t half, float* x) {
  ForEachGroup(half, [&](int64_t i, int count) HWY_ATTR {
    const Group low = LoadGroupPart(x + i, count);
    const Group high = LoadGroupPart(x + half + i, count);
    const Group c = LoadGroupPart(cosine + i, count);
    const Group s = LoadGroupPart(sine + i, count);
    Group new_low;
    Group new_high;
    for (int v = 0; v < kVectors; ++v) {
      new_low.v[v] = hn::NegMulAdd(high.v[v], s.v[v], hn::Mul(low.v[v], c.v[v]));
      new_high.v[v] = hn::MulAdd(low.v[v], s.v[v], hn::Mul(high.v[v], c.v[v]));
    }
    StoreGroupPart(new_low, x + i, count);
    StoreGroupPart(new_high, x + half + i, count);
  });
}

inline void NormAndRotateToken(const HeadNormRopeOperand& operand, float epsilon, int64_t token,
                               const float* table_row) {
  if (!operand.x.defined()) return;
  const int64_t head_dim = operand.x.shape[2];
  for (int64_t head = 0; head < operand.x.shape[1]; ++head) {
    float* const x =
        operand.x.as<float>() + token * operand.x.strides[0] + head * operand.x.strides[1];
    if (operand.weight.defined()) {
      ScaleRow(x, operand.weight.as<float>(), InverseRms(x, head_dim, epsilon), head_dim, x);
    }
    RotateHead(table_row, table_row + head_dim / 2, head_dim / 2, x);
  }
}

void HeadNormRopeRows(const HeadNormRopeParams& params, ThreadPool& pool) {
  const int64_t heads = params.q.x.shape[1] + params.r.x.shape[1] + params.k.x.shape[1];
  const int64_t tokens = static_cast<int64_t>(params.positions.size());
  ParallelRows(pool, tokens, heads * params.table.shape[1],
               [&](int64_t begin, int64_t end, int /*thread*/) {
                 for (int64_t token = begin; token < end; ++token) {
                   const float* const table_row =
                       params.table.as<float>() + params.positions[token] * params.table.strides[0];
                   for (const HeadNormRopeOperand* operand : {&params.q, &params.r, &params.k}) {
                     NormAndRotateToken(*operand, params.norm_epsilon, token, table_row);
                   }
                 }
               });
}

void SiluAndMulRows(const ConstTensorView& gate_up, const TensorView& out, ThreadPool& pool) {
  constexpr int64_t kCostOfExp = 4;
  const int64_t width = out.shape[1];
  ParallelRows(
      pool, out.shape[0], width * kCostOfExp, [&](int64_t begin, int64_t end, int /*thread*/) {
        const FloatTag tag;
        for (int64_t row = begin; row < end; ++row) {
          const float* const gate = gate_up.as<float>() + row * gate_up.strides[0];
          float* const to = out.as<float>() + row * out.strides[0];
          ForEachGroup(width, [&](int64_t i, int count) HWY_ATTR {
            const Group g = LoadGroupPart(gate + i, count);
            Group result = LoadGroupPart(gate + width + i, count);
            for (int v = 0; v < kVectors; ++v) {
              // Beyond 88 the exponential would overflow; the quotient is zero long before.
              const FloatVector exponent = hn::Min(hn::Neg(g.v[v]), hn::Set(tag, 88.0f));
              const FloatVector divisor = hn::Add(hn::Set(tag, 1.0f), hn::Exp(tag, exponent));
              result.v[v] = hn::Mul(hn::Div(g.v[v], divisor), result.v[v]);
            }
            StoreGroupPart(result, to + i, count);
          });
        }
      });
}

template <typename T>
void EmbeddingRows(const ConstTensorView& table, std::span<const int32_t> ids,
                   const TensorView& out, ThreadPool& pool) {
  const int64_t hidden = table.shape[1];
  ParallelRows(pool, static_cast<int64_t>(ids.size()), hidden,
               [&](int64_t begin, int64_t end, int /*thread*/) {
                 for (int64_t row = begin; row < end; ++row) {
                   const T* const from =
                       static_cast<const T*>(table.data) + ids[row] * table.strides[0];
                   float* const to = out.as<float>() + row * out.strides[0];
                   ForEachGroup(hidden, [&](int64_t i, int count) HWY_ATTR {
                     StoreGroupPart(LoadGroupPart(from + i, count), to + i, count);
                   });
                 }
               });
}

void EmbeddingRowsOfAnyType(const ConstTensorView& table, std::span<const int32_t> ids,
                            const TensorView& out, ThreadPool& pool) {
  switch (table.dtype) {
    case DType::kFloat32:
      return EmbeddingRows<float>(table, ids, out, pool);
    case DType::kBFloat16:
      return EmbeddingRows<hwy::bfloat16_t>(table, ids, out, pool);
    case DType::kFloat16:
      return EmbeddingRows<hwy::float16_t>(table, ids, out, pool);
  }
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace parallax::kernels::cpu {

HWY_EXPORT(AddRmsNormRows);
HWY_EXPORT(HeadNormRopeRows);
HWY_EXPORT(SiluAndMulRows);
HWY_EXPORT(EmbeddingRowsOfAnyType);

void AddRmsNorm(const ConstTensorView& x, const TensorView& residual, const ConstTensorView& weight,
                float epsilon, const TensorView& out, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(AddRmsNormRows)(x, residual, weight, epsilon, out, pool);
}

void HeadNormRope(const HeadNormRopeParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(HeadNormRopeRows)(params, pool);
}

void SiluAndMul(const ConstTensorView& gate_up, const TensorView& out, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(SiluAndMulRows)(gate_up, out, pool);
}

void Embedding(const ConstTensorView& table, std::span<const int32_t> ids, const TensorView& out,
               ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(EmbeddingRowsOfAnyType)(table, ids, out, pool);
}

}  // namespace parallax::kernels::cpu
#endif  // HWY_ONCE
