#include "kernels/cuda/parallax_attention/portable_decode.h"

#include <cstdint>
#include <numbers>
#include <string_view>

#include "kernels/check.h"
#include "kernels/cuda/parallax_attention/prefill_args.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "ParallaxDecode";

void CheckAlignment(std::string_view operand, const ConstTensorView& rows) {
  const auto address = reinterpret_cast<uintptr_t>(rows.data);
  Check(address % 16 == 0 && rows.strides[0] % 8 == 0, kOp, operand,
        "of 16-byte aligned rows on this GPU; its row stride",
        static_cast<double>(rows.strides[0]));
}

}  // namespace

size_t PortableDecodeWorkspaceBytes() { return sizeof(PrefillWorkspace); }

size_t PortableDecodeCounterBytes() { return sizeof(PrefillCounters); }

void PortableDecode(const ParallaxDecodeParams& params, const Stream& stream) {
  CheckAlignment("q", params.q);
  if (params.r.defined()) CheckAlignment("r", params.r);
  const auto workspace = reinterpret_cast<uintptr_t>(params.workspace.data());
  Check(workspace % alignof(PrefillWorkspace) == 0, kOp, "workspace.data", "256-byte aligned",
        static_cast<double>(workspace % alignof(PrefillWorkspace)));
  PrefillArgs args = {};
  args.q = params.q.as<__nv_bfloat16>();
  args.out = params.out.as<__nv_bfloat16>();
  args.q_stride = params.q.strides[0];
  args.out_stride = params.out.strides[0];
  if (params.r.defined()) {
    args.r = params.r.as<__nv_bfloat16>();
    args.r_stride = params.r.strides[0];
  }
  args.cache = params.cache;
  args.query_start = params.query_start;
  args.context_len = params.context_len;
  args.block_tables = params.block_tables;
  args.max_blocks = params.max_blocks;
  args.batch = params.batch;
  args.group_size = static_cast<int>(params.q.shape[1]) / params.cache.num_kv_heads;
  args.scale_log2 = params.softmax_scale * std::numbers::log2e_v<float>;
  args.window = params.sliding_window > 0 ? params.sliding_window : kNoWindow;
  args.split_keys = true;
  args.workspace = reinterpret_cast<PrefillWorkspace*>(params.workspace.data());
  LaunchPortableAttention(args, params.q.shape[0], stream.cuda_stream());
}

}  // namespace parallax::kernels::cuda
