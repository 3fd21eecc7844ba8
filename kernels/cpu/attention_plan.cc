#include "kernels/cpu/attention_plan.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <string>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels::cpu {
namespace {

// A row is split when it alone is more than this part of one thread's fair share, so at most
// kSplitShare * threads (sequence, KV head) pairs ever are.
constexpr int64_t kSplitShare = 2;
constexpr int64_t kTasksPerThread = 4;
constexpr size_t kAlignment = 64;

constexpr size_t RoundUp(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

constexpr int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bytes for `states` probe states and the list of `sequences`.
size_t WorkspaceBytes(int64_t sequences, int64_t states, int64_t output_floats) {
  if (states == 0) return 0;
  return kAlignment + RoundUp(sequences * sizeof(int32_t)) +
         RoundUp(states * sizeof(ProbeScalars)) + states * output_floats * sizeof(float);
}

// Keys times rows of the whole batch, for one KV head.
int64_t TotalKeys(const ParallaxAttentionParams& params) {
  const int64_t window =
      params.sliding_window > 0 ? params.sliding_window : std::numeric_limits<int64_t>::max();
  int64_t keys = 0;
  for (size_t sequence = 0; sequence < params.context_len.size(); ++sequence) {
    const int64_t rows = params.query_start[sequence + 1] - params.query_start[sequence];
    keys += rows * std::min<int64_t>(params.context_len[sequence], window);
  }
  return keys;
}

// Hands out aligned pieces of the workspace.
class Carver {
 public:
  explicit Carver(std::span<std::byte> memory) : next_(memory.data()), left_(memory.size()) {
    void* pointer = next_;
    std::align(kAlignment, 0, pointer, left_);
    next_ = static_cast<std::byte*>(pointer);
  }
  template <typename T>
  T* Take(int64_t count) {
    T* const piece = reinterpret_cast<T*>(next_);
    next_ += RoundUp(count * sizeof(T));
    return piece;
  }

 private:
  std::byte* next_;
  size_t left_;
};

void PlaceSplits(const ParallaxAttentionParams& params, int64_t num_split, AttentionPlan& plan) {
  const int64_t states = num_split * plan.num_kv_heads * plan.splits_per_sequence * plan.group;
  const size_t needed = WorkspaceBytes(num_split, states, plan.output_floats);
  if (params.workspace.size() < needed) {
    ThrowKernelError("ParallaxAttention", "workspace",
                     "must have " + std::to_string(needed) + " bytes for this batch, has " +
                         std::to_string(params.workspace.size()));
  }
  Carver carver(params.workspace);
  plan.split_sequences = {carver.Take<int32_t>(num_split), static_cast<size_t>(num_split)};
  plan.scalars = carver.Take<ProbeScalars>(states);
  plan.outputs = carver.Take<float>(states * plan.output_floats);
  size_t next = 0;
  for (size_t sequence = 0; sequence < params.context_len.size(); ++sequence) {
    if (plan.IsSplit(params, sequence)) plan.split_sequences[next++] = sequence;
  }
}

void PlanSplits(const ParallaxAttentionParams& params, int threads, AttentionPlan& plan) {
  plan.split_above_keys = std::numeric_limits<int64_t>::max();
  if (threads == 1) return;
  const int64_t fair_share =
      CeilDivide(TotalKeys(params) * plan.num_kv_heads, kSplitShare * threads);
  plan.split_above_keys = std::max<int64_t>(fair_share, kKeysPerSplit);
  int64_t num_split = 0;
  for (size_t sequence = 0; sequence < params.context_len.size(); ++sequence) {
    if (!plan.IsSplit(params, sequence)) continue;
    ++num_split;
    plan.splits_per_sequence =
        std::max(plan.splits_per_sequence, CeilDivide(params.context_len[sequence], kKeysPerSplit));
  }
  if (num_split > 0) PlaceSplits(params, num_split, plan);
}

}  // namespace

int64_t AttentionPlan::KeysOfDecodeRow(const ParallaxAttentionParams& params, int64_t sequence) {
  const int64_t context = params.context_len[sequence];
  return params.sliding_window > 0 ? std::min<int64_t>(context, params.sliding_window) : context;
}

AttentionPlan PlanAttention(const ParallaxAttentionParams& params, int threads) {
  AttentionPlan plan;
  const int64_t tokens = params.q.shape[0];
  plan.num_kv_heads = params.cache.num_kv_heads;
  plan.group = static_cast<int>(params.q.shape[1] / plan.num_kv_heads);
  plan.output_floats = int64_t{params.r.defined() ? 2 : 1} * params.cache.head_dim;
  const int64_t wanted_blocks = CeilDivide(kTasksPerThread * threads, plan.num_kv_heads);
  plan.tokens_per_block =
      std::clamp<int64_t>(tokens / wanted_blocks, 1, kMaxGroupSize / plan.group);
  plan.num_blocks = CeilDivide(tokens, plan.tokens_per_block);
  PlanSplits(params, threads, plan);
  return plan;
}

size_t ParallaxAttentionWorkspaceBytes(int group_size, int head_dim, int64_t max_context_len,
                                       const ThreadPool& pool) {
  if (pool.size() == 1 || max_context_len <= kKeysPerSplit) return 0;
  const int64_t pairs = kSplitShare * pool.size();
  const int64_t states = pairs * CeilDivide(max_context_len, kKeysPerSplit) * group_size;
  return WorkspaceBytes(pairs, states, 2 * head_dim);
}

}  // namespace parallax::kernels::cpu
