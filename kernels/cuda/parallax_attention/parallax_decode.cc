#include "kernels/cuda/parallax_decode.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/head_norm_rope.h"
#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_form.h"
#include "kernels/cuda/parallax_attention/decode_launch.h"
#include "kernels/cuda/parallax_attention/portable_decode.h"

namespace parallax::kernels::cuda {
namespace {

constexpr const char* kOp = "ParallaxDecode";
constexpr int kWorkspaceAlignment = 256;

// From this position on, batches in clusters of 4 whose CTAs share SMs by two had better start on
// free ones: two to four sequences of 8 KV heads of 128 dims lose by it at 2048 keys and gain at
// 4096. Those of 64 dims, whose CTAs have an SM each, lose by it up to 16384.
constexpr int kLongContext = 3072;

// Lengths that a lane may read to find out how full whole units of unequal lengths make a slice: as
// many as it reads of the longest batch to sum it up.
constexpr int kMaxLengthsALane = kMaxDecodeBatch / 32;

// Of slices that are equally full when several units each are dealt out (FullestSlice); 0 where the
// units of a sequence fall into more than one such group, or it takes too long to go through all.
int SliceGroups(const DecodeForm& form, int units_a_sequence, int units_a_cluster) {
  const bool dealt_by_sequence = form.num_clusters % units_a_sequence == 0;
  if (form.cluster_size > 1 || units_a_cluster == 1 || !dealt_by_sequence) return 0;
  const int groups = form.num_clusters / units_a_sequence;
  return (groups + 31) / 32 * units_a_cluster <= kMaxLengthsALane ? groups : 0;
}

// One for every CTA.
size_t CounterBytes(const DeviceProperties& device) {
  const size_t bytes = 2 * device.num_sms * sizeof(uint32_t);
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

void CheckRange(std::string_view operand, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  ThrowKernelError(kOp, operand,
                   "must be " + std::to_string(least) + " to " + std::to_string(most) + ", is " +
                       std::to_string(value));
}

void CheckHeads(int num_query_heads, int num_kv_heads, int head_dim) {
  CheckAtLeast(kOp, "cache.num_kv_heads", num_kv_heads, 1);
  Check(head_dim == 64 || head_dim == 128, kOp, "cache.head_dim", "64 or 128", head_dim);
  Check(num_query_heads > 0 && num_query_heads % num_kv_heads == 0, kOp, "q",
        "of a multiple of num_kv_heads heads", num_query_heads);
  CheckRange("query heads a KV head", num_query_heads / num_kv_heads, 1, kMaxDecodeGroupSize);
}

// Queries are loaded 16 bytes at a time, and heads of a token lie side by side.
void CheckRows(std::string_view operand, const ConstTensorView& tensor,
               const ParallaxDecodeParams& params, const Stream& stream) {
  CheckTensor(kOp, operand, tensor, DType::kBFloat16,
              {params.q.shape[0], params.q.shape[1], params.cache.head_dim}, stream);
  Check(tensor.strides[1] == params.cache.head_dim, kOp, operand, "contiguous over its heads",
        static_cast<double>(tensor.strides[1]));
  constexpr int kAlignment = 16;
  Check(tensor.strides[0] * sizeof(__nv_bfloat16) % kAlignment == 0 &&
            reinterpret_cast<uintptr_t>(tensor.data) % kAlignment == 0,
        kOp, operand, "aligned to 16 bytes; its row stride",
        static_cast<double>(tensor.strides[0]));
}

void CheckPointer(std::string_view operand, const void* pointer) {
  if (pointer == nullptr) ThrowKernelError(kOp, operand, "is null");
}

void CheckParams(const ParallaxDecodeParams& params, const DeviceProperties& device,
                 const Stream& stream) {
  CheckTensor(kOp, "q", params.q, DType::kBFloat16, {kAnyExtent, kAnyExtent, kAnyExtent}, stream);
  CheckHeads(static_cast<int>(params.q.shape[1]), params.cache.num_kv_heads, params.cache.head_dim);
  CheckRows("q", params.q, params, stream);
  if (params.r.defined()) CheckRows("r", params.r, params, stream);
  CheckRows("out", params.out, params, stream);
  CheckRange("batch", params.batch, 1, kMaxDecodeBatch);
  CheckRange("max_query_len", params.max_query_len, 1, kMaxDecodeQueryLen);
  Check(params.query_start != nullptr ||
            (params.max_query_len == 1 && params.q.shape[0] >= params.batch),
        kOp, "query_start", "given where sequences may have several rows; max_query_len",
        params.max_query_len);
  CheckRange("max_blocks", params.max_blocks, 1, INT32_MAX / kPageSize);
  CheckAtLeast(kOp, "sliding_window", params.sliding_window, 0);
  Check(params.softmax_scale > 0 && std::isfinite(params.softmax_scale), kOp, "softmax_scale",
        "positive", params.softmax_scale);
  CheckPointer("cache.data", params.cache.data);
  CheckPointer("context_len", params.context_len);
  CheckPointer("block_tables", params.block_tables);
  CheckPointer("workspace", params.workspace.data());
  const auto workspace = reinterpret_cast<uintptr_t>(params.workspace.data());
  Check(workspace % kWorkspaceAlignment == 0, kOp, "workspace.data", "256-byte aligned",
        static_cast<double>(workspace % kWorkspaceAlignment));
  CheckAtLeast(kOp, "workspace bytes", static_cast<int64_t>(params.workspace.size()),
               static_cast<int64_t>(ParallaxDecodeWorkspaceBytes(
                   device, static_cast<int>(params.q.shape[1]), params.cache.num_kv_heads,
                   params.cache.head_dim, params.max_query_len)));
}

// The kernel counts a batch's units and pages in 32 bits, and divides a unit's number by those of a
// sequence (Divisor).
void CheckCounts(int64_t batch, int64_t units_a_sequence, int64_t pages_a_unit) {
  const int64_t units = batch * units_a_sequence;
  CheckRange("units of the batch times those of a sequence", units * units_a_sequence, 1,
             UINT32_MAX);
  CheckRange("pages of the batch, over all units", units * pages_a_unit, 1, INT32_MAX);
}

DecodeArgs MakeArgs(const ParallaxDecodeParams& params, const DeviceProperties& device) {
  DecodeArgs args;
  args.q = params.q.as<__nv_bfloat16>();
  args.r = params.r.defined() ? params.r.as<__nv_bfloat16>() : nullptr;
  args.out = params.out.as<__nv_bfloat16>();
  args.q_stride = params.q.strides[0];
  args.r_stride = params.r.strides[0];
  args.out_stride = params.out.strides[0];
  args.cache = params.cache.data;
  args.num_kv_heads = params.cache.num_kv_heads;
  args.group = Divisor(params.q.shape[1] / params.cache.num_kv_heads);
  args.batch = params.batch;
  args.query_start = params.query_start;
  args.context_len = params.context_len;
  args.block_tables = params.block_tables;
  args.max_blocks = params.max_blocks;
  args.scale_log2 = params.softmax_scale * 1.44269504088896341f;
  args.sliding_window = params.sliding_window;
  args.beside_preceding = params.beside_preceding;
  args.counters = reinterpret_cast<uint32_t*>(params.workspace.data());
  args.partials = reinterpret_cast<float4*>(params.workspace.data() + CounterBytes(device));
  return args;
}

}  // namespace

size_t ParallaxDecodeCounterBytes(const DeviceProperties& device) {
  return device.is_hopper() ? CounterBytes(device) : PortableDecodeCounterBytes();
}

size_t ParallaxDecodeWorkspaceBytes(const DeviceProperties& device, int num_query_heads,
                                    int num_kv_heads, int head_dim, int max_query_len) {
  CheckHeads(num_query_heads, num_kv_heads, head_dim);
  CheckRange("max_query_len", max_query_len, 1, kMaxDecodeQueryLen);
  if (!device.is_hopper()) return PortableDecodeWorkspaceBytes();
  const int tiles =
      SequenceUnits(num_query_heads / num_kv_heads * max_query_len, num_kv_heads).tiles;
  // No form has more CTAs than that of many units, and those of a cluster share what it leaves.
  const DecodeForm form = DecodeFormOf(device, kMaxDecodeBatch, tiles, head_dim);
  const int64_t partials =
      form.num_clusters * DecodePartialsOfCluster(head_dim, tiles, form.cluster_size);
  return CounterBytes(device) + partials * sizeof(float4);
}

int32_t DecodeHoldsFrom(const DeviceProperties& device, int batch, int num_query_heads,
                        const PagedKvCache& cache, int32_t sliding_window) {
  CheckHeads(num_query_heads, cache.num_kv_heads, cache.head_dim);
  CheckRange("batch", batch, 1, kMaxDecodeBatch);
  CheckAtLeast(kOp, "sliding_window", sliding_window, 0);
  if (!device.is_hopper()) return kNeverHolds;
  const SequenceUnits units(num_query_heads / cache.num_kv_heads, cache.num_kv_heads);
  CheckCounts(batch, units.count, /*pages_a_unit=*/1);
  if (units.tiles > 1) return kNeverHolds;  // not measured
  const DecodeForm form = DecodeFormOf(device, batch * units.count, units.tiles, cache.head_dim);
  if (form.cluster_size == kMostClusterSize) return 0;
  const bool reads_long = sliding_window == 0 || sliding_window >= kLongContext;
  const bool crowds = form.cluster_size == 4 && form.ctas_per_sm > 1;
  return crowds && reads_long ? kLongContext : kNeverHolds;
}

void ParallaxDecode(const ParallaxDecodeParams& params, const DeviceProperties& device,
                    const Stream& stream) {
  CheckParams(params, device, stream);
  if (!device.is_hopper()) {
    PortableDecode(params, stream);
    return;
  }
  DecodeArgs args = MakeArgs(params, device);
  const int rows = static_cast<int>(args.group.value) * params.max_query_len;
  const SequenceUnits of_sequence(rows, args.num_kv_heads);
  CheckCounts(args.batch, of_sequence.count,
              params.max_blocks + kDecodeUnitCost * kMostClusterSize);
  const int units = args.batch * of_sequence.count;
  const int tiles = of_sequence.tiles;
  const int head_dim = params.cache.head_dim;
  const DecodeForm form = DecodeFormOf(device, units, tiles, head_dim);
  args.row_blocks = Divisor(of_sequence.row_blocks);
  args.units_a_sequence = Divisor(of_sequence.count);
  args.num_clusters = form.num_clusters;
  args.units_a_cluster = (units + form.num_clusters - 1) / form.num_clusters;
  args.slice_groups = SliceGroups(form, of_sequence.count, args.units_a_cluster);
  args.unit_cost = kDecodeUnitCost * form.cluster_size;
  args.cut_rule = CutRuleOf(form, units, tiles, head_dim);
  const bool programmatic_launch = params.programmatic_launch || params.beside_preceding;
  LaunchDecodeSm90(args, {head_dim, tiles, form, programmatic_launch}, stream.cuda_stream());
}

}  // namespace parallax::kernels::cuda
