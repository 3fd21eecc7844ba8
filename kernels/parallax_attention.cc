#include "kernels/parallax_attention.h"

#include <algorithm>
#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels {
namespace {

constexpr char kOp[] = "ParallaxAttention";

std::string At(int64_t index, int64_t value) {
  return "entry " + std::to_string(index) + " is " + std::to_string(value);
}

void CheckHeads(int64_t num_query_heads, int64_t num_kv_heads, int64_t head_dim) {
  CheckAtLeast(kOp, "num_kv_heads", num_kv_heads, 1);
  if (num_query_heads < 1 || num_query_heads % num_kv_heads != 0 ||
      num_query_heads / num_kv_heads > kMaxGroupSize) {
    ThrowKernelError(kOp, "num_query_heads",
                     "must be 1 to " + std::to_string(kMaxGroupSize) + " times the " +
                         std::to_string(num_kv_heads) + " KV heads, is " +
                         std::to_string(num_query_heads));
  }
  if (head_dim < kPanelWidth || head_dim > kMaxHeadDim || head_dim % kPanelWidth != 0) {
    ThrowKernelError(kOp, "head_dim",
                     "must be a multiple of " + std::to_string(kPanelWidth) + " up to " +
                         std::to_string(kMaxHeadDim) + ", is " + std::to_string(head_dim));
  }
}

void CheckTensors(const ParallaxAttentionParams& params, const Stream& stream) {
  const int64_t tokens = params.q.shape[0];
  const int64_t heads = params.q.shape[1];
  const int64_t head_dim = params.cache.head_dim;
  CheckTensor(kOp, "q", params.q, DType::kFloat32, {kAnyExtent, kAnyExtent, head_dim}, stream);
  CheckHeads(heads, params.cache.num_kv_heads, head_dim);
  if (params.r.defined()) {
    CheckTensor(kOp, "r", params.r, DType::kFloat32, {tokens, heads, head_dim}, stream);
  }
  CheckTensor(kOp, "out", params.out, DType::kFloat32, {tokens, heads, head_dim}, stream);
  if (params.cache.data == nullptr) ThrowKernelError(kOp, "cache", "must have data, is null");
  if (params.cache.device != stream.device()) {
    ThrowKernelError(kOp, "cache", "must be on the stream's device");
  }
  CheckAtLeast(kOp, "sliding_window", params.sliding_window, 0);
}

void CheckPages(const ParallaxAttentionParams& params, int64_t sequence, int64_t query_rows) {
  const int64_t context = params.context_len[sequence];
  int64_t first_key = 0;
  if (params.sliding_window > 0) {
    first_key = std::max<int64_t>(0, context - query_rows + 1 - params.sliding_window);
  }
  for (int64_t page = first_key / kPageSize; page * kPageSize < context; ++page) {
    const int64_t entry = sequence * params.max_blocks + page;
    const int32_t physical = params.block_tables[entry];
    if (physical < 0 || physical >= params.cache.num_pages) {
      ThrowKernelError(kOp, "block_tables",
                       "must name pages below " + std::to_string(params.cache.num_pages) + ", " +
                           At(entry, physical));
    }
  }
}

void CheckSequence(const ParallaxAttentionParams& params, int64_t sequence) {
  const int64_t query_rows = params.query_start[sequence + 1] - params.query_start[sequence];
  if (query_rows < 0) {
    ThrowKernelError(kOp, "query_start",
                     "must ascend, " + At(sequence + 1, params.query_start[sequence + 1]) +
                         " after " + std::to_string(params.query_start[sequence]));
  }
  if (query_rows == 0) return;
  const int64_t context = params.context_len[sequence];
  if (context < query_rows || context > params.max_blocks * kPageSize) {
    ThrowKernelError(kOp, "context_len",
                     "must lie between the " + std::to_string(query_rows) +
                         " query rows and the block table's " +
                         std::to_string(params.max_blocks * kPageSize) + " tokens, " +
                         At(sequence, context));
  }
  CheckPages(params, sequence, query_rows);
}

void CheckBatch(const ParallaxAttentionParams& params) {
  const int64_t sequences = static_cast<int64_t>(params.context_len.size());
  if (static_cast<int64_t>(params.query_start.size()) != sequences + 1) {
    ThrowKernelError(kOp, "query_start",
                     "must have one entry more than context_len's " + std::to_string(sequences) +
                         ", has " + std::to_string(params.query_start.size()));
  }
  if (static_cast<int64_t>(params.block_tables.size()) < sequences * params.max_blocks) {
    ThrowKernelError(kOp, "block_tables",
                     "must have " + std::to_string(sequences * params.max_blocks) +
                         " entries, has " + std::to_string(params.block_tables.size()));
  }
  if (params.query_start.front() != 0 || params.query_start.back() != params.q.shape[0]) {
    ThrowKernelError(kOp, "query_start",
                     "must run from 0 to the " + std::to_string(params.q.shape[0]) +
                         " query rows, runs from " + std::to_string(params.query_start.front()) +
                         " to " + std::to_string(params.query_start.back()));
  }
  for (int64_t sequence = 0; sequence < sequences; ++sequence) CheckSequence(params, sequence);
}

}  // namespace

size_t ParallaxAttentionWorkspaceBytes(int num_query_heads, int num_kv_heads, int head_dim,
                                       int64_t max_context_len, const Stream& stream) {
  CheckHeads(num_query_heads, num_kv_heads, head_dim);
  CheckAtLeast(kOp, "max_context_len", max_context_len, 1);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::ParallaxAttentionWorkspaceBytes(num_query_heads / num_kv_heads, head_dim,
                                                  max_context_len, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
  return 0;
}

void ParallaxAttention(const ParallaxAttentionParams& params, const Stream& stream) {
  CheckTensors(params, stream);
  CheckBatch(params);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      if (params.split_policy != SplitPolicy::kFixed) {
        ThrowKernelError(kOp, "split_policy", "must be kFixed on the CPU, is kBalanced");
      }
      return cpu::ParallaxAttention(params, stream.thread_pool());
    case DeviceType::kCuda:
      ThrowBuiltWithoutCuda(kOp);
  }
}

}  // namespace parallax::kernels
