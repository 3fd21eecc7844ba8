#include <string>

#include "kernels/check.h"
#include "kernels/cuda/head_norm_rope.h"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/row_ops/row_checks.h"
#include "kernels/cuda/row_ops/vectors.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "HeadNormRopeAndKvWrite";
constexpr int kThreads = 128;

// q or r: where its heads go.
struct QueryHeads {
  __nv_bfloat16* out;  // [tokens, heads, head_dim], strided
  int64_t token_stride;
  int64_t head_stride;
};

struct KernelParams {
  const __nv_bfloat16* qrkv;  // [tokens, heads in all, head_dim]
  int64_t qrkv_stride;
  QueryHeads q;
  QueryHeads r;
  const float* q_weight;  // [head_dim] or null
  const float* r_weight;
  const float* k_weight;
  float epsilon;
  const float* table;  // [max_positions, head_dim]
  int64_t table_stride;
  const int32_t* positions;
  const int64_t* slot_mapping;
  PagedKvCache cache;
  // Heads of a row: q before r_begin, r before k_begin, k before v_begin, then v.
  int r_begin;
  int k_begin;
  int v_begin;
  int num_heads;
};

// A thread's part of a head: dimensions 8i .. 8i+7 of either half, which rotate into each other.
struct HeadPart {
  Vector low;
  Vector high;
};

// x * factor * weight.
__device__ void Scale(const float* weight, float factor, int low, int high, HeadPart& x) {
  const Vector low_weight = LoadVector(weight + low);
  const Vector high_weight = LoadVector(weight + high);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    x.low.v[i] = x.low.v[i] * factor * low_weight.v[i];
    x.high.v[i] = x.high.v[i] * factor * high_weight.v[i];
  }
}

// Half-split rotation; see kernels/rope.h.
__device__ void Rotate(const float* table_row, int low, int high, HeadPart& x) {
  const Vector cosine = LoadVector(table_row + low);
  const Vector sine = LoadVector(table_row + high);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float a = x.low.v[i];
    const float b = x.high.v[i];
    x.low.v[i] = fmaf(-b, sine.v[i], a * cosine.v[i]);
    x.high.v[i] = fmaf(a, sine.v[i], b * cosine.v[i]);
  }
}

// Lanes threads a head. Grid: [tokens, blocks of heads].
template <int Lanes>
__global__ void __launch_bounds__(kThreads) HeadNormRopeKernel(KernelParams params) {
  constexpr int kHeadDim = Lanes * 2 * kVector;
  LetNextKernelStart();
  const int64_t token = blockIdx.x;
  const int head = blockIdx.y * (kThreads / Lanes) + threadIdx.x / Lanes;
  const int low = threadIdx.x % Lanes * kVector;
  const int high = low + kHeadDim / 2;
  const bool active = head < params.num_heads;
  HeadPart x = {};
  WaitForPrecedingKernel();
  if (active) {
    const __nv_bfloat16* const from =
        params.qrkv + token * params.qrkv_stride + int64_t{head} * kHeadDim;
    x = {LoadVector(from + low), LoadVector(from + high)};
  }
  const bool is_q = head < params.r_begin;
  const bool is_r = !is_q && head < params.k_begin;
  const bool is_v = head >= params.v_begin;
  // Outside the branches, for all lanes take part.
  const float squares = SumOverLanes<Lanes>(SumOfSquares(x.low) + SumOfSquares(x.high));
  if (!active) return;
  if (!is_v) {
    const float* const weight = is_q ? params.q_weight : is_r ? params.r_weight : params.k_weight;
    if (weight != nullptr) {
      Scale(weight, 1.0f / sqrtf(squares / kHeadDim + params.epsilon), low, high, x);
    }
    Rotate(params.table + params.positions[token] * params.table_stride, low, high, x);
  }
  if (is_q || is_r) {
    const QueryHeads& to = is_q ? params.q : params.r;
    const int query_head = is_q ? head : head - params.r_begin;
    __nv_bfloat16* const out = to.out + token * to.token_stride + query_head * to.head_stride;
    StoreVector(x.low, out + low);
    StoreVector(x.high, out + high);
    return;
  }
  const int64_t slot = params.slot_mapping[token];
  if (slot < 0) return;
  const int64_t page = slot / kPageSize;
  const int offset = static_cast<int>(slot % kPageSize);
  const int64_t block = is_v ? params.cache.v_block_offset(page, head - params.v_begin)
                             : params.cache.k_block_offset(page, head - params.k_begin);
  StoreVector(x.low, params.cache.data + block + KvBlockOffset(offset, low));
  StoreVector(x.high, params.cache.data + block + KvBlockOffset(offset, high));
}

template <int Lanes>
void Launch(const KernelParams& params, int64_t tokens, const Stream& stream) {
  constexpr int kHeadsABlock = kThreads / Lanes;
  const dim3 grid(static_cast<unsigned>(tokens),
                  static_cast<unsigned>((params.num_heads + kHeadsABlock - 1) / kHeadsABlock));
  LaunchEarly(kOp, HeadNormRopeKernel<Lanes>, grid, kThreads, stream, params);
}

const float* CheckWeight(const char* operand, const ConstTensorView& weight, int64_t head_dim,
                         const Stream& stream) {
  if (!weight.defined()) return nullptr;
  CheckTensor(kOp, operand, weight, DType::kFloat32, {head_dim}, stream);
  CheckAligned(kOp, operand, weight.data);
  return weight.as<float>();
}

QueryHeads CheckQueryHeads(const char* operand, const TensorView& out, int64_t tokens,
                           int64_t head_dim, const Stream& stream) {
  CheckTensor(kOp, operand, out, DType::kBFloat16, {tokens, kAnyExtent, head_dim}, stream);
  CheckVectorRows(kOp, operand, out);
  return {out.as<__nv_bfloat16>(), out.strides[0], out.strides[1]};
}

void CheckCache(const PagedKvCache& cache) {
  if (cache.data == nullptr) ThrowKernelError(kOp, "cache", "must have data, is null");
  CheckAligned(kOp, "cache", cache.data);
  CheckAtLeast(kOp, "cache num_kv_heads", cache.num_kv_heads, 1);
  Check(cache.head_dim == 64 || cache.head_dim == 128, kOp, "cache head_dim", "64 or 128",
        cache.head_dim);
}

KernelParams CheckAndConvert(const HeadNormRopeParams& params, const Stream& stream) {
  CheckCache(params.cache);
  const auto tokens = static_cast<int64_t>(params.positions.size());
  const int64_t head_dim = params.cache.head_dim;
  KernelParams result = {};
  result.q = CheckQueryHeads("q", params.q, tokens, head_dim, stream);
  result.r_begin = static_cast<int>(params.q.shape[1]);
  result.k_begin = result.r_begin;
  if (params.r.defined()) {
    result.r = CheckQueryHeads("r", params.r, tokens, head_dim, stream);
    CheckTensor(kOp, "r", params.r, {tokens, params.q.shape[1], head_dim}, stream);
    result.k_begin += result.r_begin;
  }
  result.v_begin = result.k_begin + params.cache.num_kv_heads;
  result.num_heads = result.v_begin + params.cache.num_kv_heads;
  CheckTensor(kOp, "qrkv", params.qrkv, DType::kBFloat16, {tokens, result.num_heads * head_dim},
              stream);
  CheckVectorRows(kOp, "qrkv", params.qrkv);
  CheckTensor(kOp, "table", params.table, DType::kFloat32, {kAnyExtent, head_dim}, stream);
  CheckVectorRows(kOp, "table", params.table);
  CheckAtLeast(kOp, "slot_mapping entries", static_cast<int64_t>(params.slot_mapping.size()),
               tokens);
  Check(params.norm_epsilon >= 0.0f, kOp, "norm_epsilon", "non-negative", params.norm_epsilon);
  result.qrkv = params.qrkv.as<__nv_bfloat16>();
  result.qrkv_stride = params.qrkv.strides[0];
  result.q_weight = CheckWeight("q_weight", params.q_weight, head_dim, stream);
  result.r_weight = CheckWeight("r_weight", params.r_weight, head_dim, stream);
  result.k_weight = CheckWeight("k_weight", params.k_weight, head_dim, stream);
  result.epsilon = params.norm_epsilon;
  result.table = params.table.as<float>();
  result.table_stride = params.table.strides[0];
  result.positions = params.positions.data();
  result.slot_mapping = params.slot_mapping.data();
  result.cache = params.cache;
  return result;
}

}  // namespace

void HeadNormRopeAndKvWrite(const HeadNormRopeParams& params, const Stream& stream) {
  const KernelParams kernel_params = CheckAndConvert(params, stream);
  const auto tokens = static_cast<int64_t>(params.positions.size());
  if (tokens == 0) return;
  if (params.cache.head_dim == 128) {
    Launch<8>(kernel_params, tokens, stream);
  } else {
    Launch<4>(kernel_params, tokens, stream);
  }
}

}  // namespace parallax::kernels::cuda
