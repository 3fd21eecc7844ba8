#include "kernels/cuda/parallax_decode.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/parallax_attention/decode_args.h"
#include "kernels/cuda/parallax_attention/decode_launch.h"
#include "kernels/cuda/parallax_attention/portable_decode.h"

namespace parallax::kernels::cuda {
namespace {

constexpr const char* kOp = "ParallaxDecode";
constexpr int kCountersAlignment = 256;

// Pages that a CTA would rather read than cut a unit: the time of a merge through global memory.
// CTAs of a cluster read a page in two thirds of the time.
constexpr int kCutCost = 3;
constexpr int kClusterCutCost = 7;

// Pages that could be read in the time that the start and the end of a unit take.
constexpr int kUnitCost = 2;

int RowBlockTiles(int rows) { return rows <= 8 ? 1 : 2; }

// Few units must be shared by many CTAs, and merging through distributed shared memory costs a
// fifth of merging through global memory; many units keep single CTAs busy, two on an SM.
int ClusterSize(int units, int tiles) {
  if (units <= 15) return 8;
  if (tiles == 2) return units <= 64 ? 8 : 1;
  if (units <= 32) return 4;
  return units <= 64 ? 2 : 1;
}

// How many clusters the pages are dealt out to. A multiple of a large power of two (on an H200
// the CTAs of 128 SMs, not 132), so that batches of powers of two fall into whole units: the
// memory is as busy, and merges cost more than four SMs. Clusters of 8 have an SM for each CTA;
// the SMs lie in groups with some left over, and one cluster fewer than num_sms / 8 runs at once.
int NumClusters(const DeviceProperties& device, int cluster_size, int tiles) {
  if (cluster_size == 8) return std::max(1, device.num_sms / 8 - 1);
  const int sms = device.num_sms < 16 ? device.num_sms : device.num_sms / 16 * 16;
  if (cluster_size > 1) return std::max(1, sms / cluster_size);
  return tiles == 1 ? 2 * sms : sms;
}

// One for every CTA.
size_t CounterBytes(const DeviceProperties& device) {
  const size_t bytes = 2 * device.num_sms * sizeof(uint32_t);
  return (bytes + kCountersAlignment - 1) / kCountersAlignment * kCountersAlignment;
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
  CheckAtLeast(kOp, "max_blocks", params.max_blocks, 1);
  CheckAtLeast(kOp, "sliding_window", params.sliding_window, 0);
  Check(params.softmax_scale > 0 && std::isfinite(params.softmax_scale), kOp, "softmax_scale",
        "positive", params.softmax_scale);
  CheckPointer("cache.data", params.cache.data);
  CheckPointer("context_len", params.context_len);
  CheckPointer("block_tables", params.block_tables);
  CheckPointer("workspace", params.workspace.data());
  CheckAtLeast(kOp, "workspace bytes", static_cast<int64_t>(params.workspace.size()),
               static_cast<int64_t>(ParallaxDecodeWorkspaceBytes(
                   device, static_cast<int>(params.q.shape[1]), params.cache.num_kv_heads,
                   params.cache.head_dim, params.max_query_len)));
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
  args.counters = reinterpret_cast<uint32_t*>(params.workspace.data());
  args.partials = reinterpret_cast<float4*>(params.workspace.data() + CounterBytes(device));
  return args;
}

}  // namespace

size_t ParallaxDecodeWorkspaceBytes(const DeviceProperties& device, int num_query_heads,
                                    int num_kv_heads, int head_dim, int max_query_len) {
  CheckHeads(num_query_heads, num_kv_heads, head_dim);
  CheckRange("max_query_len", max_query_len, 1, kMaxDecodeQueryLen);
  if (!device.is_hopper()) return PortableDecodeWorkspaceBytes();
  const int tiles = RowBlockTiles(num_query_heads / num_kv_heads * max_query_len);
  int64_t partials = 0;
  for (const int cluster_size : {1, 2, 4, 8}) {
    if (tiles == 2 && (cluster_size == 2 || cluster_size == 4)) continue;
    partials = std::max(partials, NumClusters(device, cluster_size, tiles) *
                                      DecodePartialsOfCluster({head_dim, tiles, cluster_size}));
  }
  return CounterBytes(device) + partials * sizeof(float4);
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
  DecodeVariant variant;
  variant.head_dim = params.cache.head_dim;
  variant.tiles = RowBlockTiles(rows);
  variant.programmatic_launch = params.programmatic_launch;
  const int row_blocks = (rows + variant.tiles * 8 - 1) / (variant.tiles * 8);
  const int units = args.batch * args.num_kv_heads * row_blocks;
  variant.cluster_size = ClusterSize(units, variant.tiles);
  args.row_blocks = Divisor(row_blocks);
  args.units_a_sequence = Divisor(args.num_kv_heads * row_blocks);
  args.num_clusters = NumClusters(device, variant.cluster_size, variant.tiles);
  args.units_a_cluster = (units + args.num_clusters - 1) / args.num_clusters;
  args.whole_slices = (units + args.units_a_cluster - 1) / args.units_a_cluster;
  args.unit_cost = kUnitCost * variant.cluster_size;
  args.cut_cost = variant.cluster_size == 1 ? kCutCost : kClusterCutCost;
  LaunchDecodeSm90(args, variant, stream.cuda_stream());
}

}  // namespace parallax::kernels::cuda
