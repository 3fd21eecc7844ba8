#include "kernels/cuda/parallax_prefill.h"

#include <climits>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "kernels/cuda/parallax_attention/prefill_args.h"
#include "kernels/parallax_attention.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "parallax_prefill";

// Rows are read and written 16 bytes at a time.
void CheckRows(std::string_view operand, const ConstTensorView& tensor, int64_t tokens,
               const ParallaxPrefillParams& params, const Stream& stream) {
  const int64_t heads = params.q.shape[1];
  const int64_t dim = params.cache.head_dim;
  CheckTensor(kOp, operand, tensor, DType::kBFloat16, {tokens, heads, dim}, stream);
  Check(tensor.strides[1] == dim, kOp, std::string(operand) + ".strides[1]",
        "head_dim: a token's heads are contiguous", static_cast<double>(tensor.strides[1]));
  Check(tensor.strides[0] % 8 == 0, kOp, std::string(operand) + ".strides[0]", "a multiple of 8",
        static_cast<double>(tensor.strides[0]));
  const auto address = reinterpret_cast<uintptr_t>(tensor.data);
  Check(address % 16 == 0, kOp, std::string(operand) + ".data", "16-byte aligned",
        static_cast<double>(address % 16));
}

void CheckParams(const ParallaxPrefillParams& params, const Stream& stream) {
  const PagedKvCache& cache = params.cache;
  Check(cache.head_dim == 64 || cache.head_dim == 128, kOp, "cache.head_dim", "64 or 128",
        cache.head_dim);
  CheckAtLeast(kOp, "cache.num_kv_heads", cache.num_kv_heads, 1);
  Check(cache.data != nullptr, kOp, "cache.data", "non-null", 0);
  CheckTensor(kOp, "q", params.q, DType::kBFloat16, {kAnyExtent, kAnyExtent, cache.head_dim},
              stream);
  const int64_t heads = params.q.shape[1];
  Check(heads % cache.num_kv_heads == 0, kOp, "q.shape[1]", "a multiple of cache.num_kv_heads",
        static_cast<double>(heads));
  const int64_t group = heads / cache.num_kv_heads;
  Check(group >= 1 && group <= kMaxGroupSize, kOp, "query heads a KV head", "1 to 32",
        static_cast<double>(group));
  const int64_t tokens = params.q.shape[0];
  CheckRows("q", params.q, tokens, params, stream);
  if (params.r.defined()) CheckRows("r", params.r, tokens, params, stream);
  CheckRows("out", params.out, tokens, params, stream);
  CheckAtLeast(kOp, "batch", params.batch, 1);
  CheckAtLeast(kOp, "max_blocks", params.max_blocks, 1);
  Check(params.max_blocks < INT_MAX / kPageSize, kOp, "max_blocks", "below 2^25",
        static_cast<double>(params.max_blocks));
  Check(params.query_start != nullptr, kOp, "query_start", "non-null", 0);
  Check(params.context_len != nullptr, kOp, "context_len", "non-null", 0);
  Check(params.block_tables != nullptr, kOp, "block_tables", "non-null", 0);
  Check(params.softmax_scale > 0.0f && std::isfinite(params.softmax_scale), kOp, "softmax_scale",
        "above 0 and finite", params.softmax_scale);
  CheckAtLeast(kOp, "sliding_window", params.sliding_window, 0);
  CheckAtLeast(kOp, "workspace", static_cast<int64_t>(params.workspace.size()),
               static_cast<int64_t>(ParallaxPrefillWorkspaceBytes()));
  const auto workspace = reinterpret_cast<uintptr_t>(params.workspace.data());
  Check(workspace % alignof(PrefillWorkspace) == 0, kOp, "workspace.data", "256-byte aligned",
        static_cast<double>(workspace % alignof(PrefillWorkspace)));
}

PrefillArgs MakeArgs(const ParallaxPrefillParams& params) {
  PrefillArgs args = {};
  args.q = params.q.as<__nv_bfloat16>();
  args.r = params.r.defined() ? params.r.as<__nv_bfloat16>() : nullptr;
  args.out = params.out.as<__nv_bfloat16>();
  args.q_stride = params.q.strides[0];
  args.r_stride = params.r.defined() ? params.r.strides[0] : 0;
  args.out_stride = params.out.strides[0];
  args.cache = params.cache;
  args.query_start = params.query_start;
  args.context_len = params.context_len;
  args.block_tables = params.block_tables;
  args.max_blocks = params.max_blocks;
  args.batch = params.batch;
  args.group_size = static_cast<int>(params.q.shape[1]) / params.cache.num_kv_heads;
  args.scale_log2 = params.softmax_scale * std::numbers::log2e_v<float>;
  args.window = params.sliding_window > 0 ? params.sliding_window : kNoWindow;
  args.split_keys = params.split_keys;
  args.workspace = reinterpret_cast<PrefillWorkspace*>(params.workspace.data());
  return args;
}

}  // namespace

size_t ParallaxPrefillCounterBytes() { return sizeof(PrefillCounters); }

size_t ParallaxPrefillWorkspaceBytes() { return sizeof(PrefillWorkspace); }

void ParallaxPrefill(const ParallaxPrefillParams& params, const DeviceProperties& device,
                     const Stream& stream) {
  CheckParams(params, stream);
  const int64_t tokens = params.q.shape[0];
  if (tokens == 0) return;
  if (device.is_hopper()) {
    LaunchPrefillWgmma(MakeArgs(params), tokens, device.num_sms, params.programmatic_launch,
                       stream.cuda_stream());
  } else {
    LaunchPortableAttention(MakeArgs(params), tokens, stream.cuda_stream());
  }
}

}  // namespace parallax::kernels::cuda
