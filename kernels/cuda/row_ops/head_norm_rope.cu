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
  int32_t holds_next_from;
};

// A thread's part of a head: dimensions 8i .. 8i+7 of either half, which rotate into each other.
struct HeadPart {
  Vector low;
  Vector high;
};

template <typename T>
__device__ HeadPart LoadPart(const T* head, int low, int high) {
  return {LoadVector(head + low), LoadVector(head + high)};
}

__device__ void Scale(float factor, const HeadPart& weight, HeadPart& x) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    x.low.v[i] = x.low.v[i] * factor * weight.low.v[i];
    x.high.v[i] = x.high.v[i] * factor * weight.high.v[i];
  }
}

// Half-split rotation; see kernels/rope.h. A row of the table: cosines, then sines.
__device__ void Rotate(const HeadPart& table_row, HeadPart& x) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float a = x.low.v[i];
    const float b = x.high.v[i];
    const float cosine = table_row.low.v[i];
    const float sine = table_row.high.v[i];
    x.low.v[i] = fmaf(-b, sine, a * cosine);
    x.high.v[i] = fmaf(a, sine, b * cosine);
  }
}

// Lanes threads a head. Grid: [tokens, blocks of heads].
template <int Lanes>
__global__ void __launch_bounds__(kThreads) HeadNormRopeKernel(KernelParams params) {
  constexpr int kHeadDim = Lanes * 2 * kVector;
  // Where nothing holds it, at once and not only when the position is there; again does nothing.
  if (params.holds_next_from == kNeverHolds) LetNextKernelStart();
  const int64_t token = blockIdx.x;
  const int64_t position = params.positions[token];
  const bool holds_next = position >= params.holds_next_from;
  if (!holds_next) LetNextKernelStart();
  const int head = blockIdx.y * (kThreads / Lanes) + threadIdx.x / Lanes;
  const int low = threadIdx.x % Lanes * kVector;
  const int high = low + kHeadDim / 2;
  const bool active = head < params.num_heads;
  const bool is_q = head < params.r_begin;
  const bool is_r = !is_q && head < params.k_begin;
  const bool is_v = head >= params.v_begin;
  const float* const weight = is_q ? params.q_weight : is_r ? params.r_weight : params.k_weight;
  const bool is_scaled = active && !is_v && weight != nullptr;
  // The preceding kernel writes none of these: they arrive while it ends.
  HeadPart scale = {};
  HeadPart table_row = {};
  int64_t slot = -1;
  if (is_scaled) scale = LoadPart(weight, low, high);
  if (active && !is_v) {
    table_row = LoadPart(params.table + position * params.table_stride, low, high);
  }
  if (active && !is_q && !is_r) slot = params.slot_mapping[token];
  HeadPart x = {};
  WaitForPrecedingKernel();
  if (holds_next) LetNextKernelStart();
  if (active) {
    x = LoadPart(params.qrkv + token * params.qrkv_stride + int64_t{head} * kHeadDim, low, high);
  }
  // Outside the branches, for all lanes take part.
  const float squares = SumOverLanes<Lanes>(SumOfSquares(x.low) + SumOfSquares(x.high));
  if (!active) return;
  if (is_scaled) Scale(1.0f / sqrtf(squares / kHeadDim + params.epsilon), scale, x);
  if (!is_v) Rotate(table_row, x);
  if (is_q || is_r) {
    const QueryHeads& to = is_q ? params.q : params.r;
    const int query_head = is_q ? head : head - params.r_begin;
    __nv_bfloat16* const out = to.out + token * to.token_stride + query_head * to.head_stride;
    StoreVector(x.low, out + low);
    StoreVector(x.high, out + high);
    return;
  }
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
  result.holds_next_from = params.holds_next_from;
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
