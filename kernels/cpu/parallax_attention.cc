// How attention's work is cut into tasks. Two kinds:
// * blocks: some consecutive query rows times one KV head, keys folded from first to last;
// * splits: where one decode row is so long that it would outlast all other work, each of its
//   key splits is a task of its own that leaves a probe state in the workspace, and the
//   states are merged in order afterwards.
// Blocks merge their splits in the same order with the same arithmetic, so the choice changes
// no bit.
#include "kernels/parallax_attention.h"

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/cpu/cpu_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/parallax_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/attention_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

inline AttentionRows RowsOfSequence(const ParallaxAttentionParams& params, int64_t sequence,
                                    int64_t first_token, int positions, int kv_head) {
  AttentionRows rows;
  rows.params = &params;
  rows.block_table = params.block_tables.data() + sequence * params.max_blocks;
  rows.first_token = first_token;
  rows.first_position =
      params.context_len[sequence] - (params.query_start[sequence + 1] - first_token);
  rows.positions = positions;
  rows.kv_head = kv_head;
  rows.group = static_cast<int>(params.q.shape[1] / params.cache.num_kv_heads);
  rows.parts = params.r.defined() ? 2 : 1;
  return rows;
}

inline void StoreOutput(const AttentionRows& rows, const ProbeStates& states) {
  const TensorView& out = rows.params->out;
  for (int position = 0; position < rows.positions; ++position) {
    for (int head = 0; head < rows.group; ++head) {
      float* const to = out.as<float>() + (rows.first_token + position) * out.strides[0] +
                        (rows.kv_head * rows.group + head) * out.strides[1];
      FinishProbeState(rows.State(states, position, head), rows.params->cache.v_scale, to);
    }
  }
}

// Rows of one sequence from their first key to their output.
template <typename T>
void RunRows(const AttentionRows& rows, AttentionScratch& scratch) {
  const ProbeStates split{scratch.split_scalars, scratch.split_o};
  const ProbeStates total{scratch.total_scalars, scratch.total_o};
  GatherQueries(rows, scratch);
  std::fill_n(total.scalars, rows.positions * rows.group, ProbeScalars{});
  const int64_t first_key = rows.VisibleKeys(0).begin;
  const int64_t last_key = rows.VisibleKeys(rows.positions - 1).end;
  for (int64_t i = first_key / kKeysPerSplit; i * kKeysPerSplit < last_key; ++i) {
    const KeyRange positions = FoldSplit<T>(rows, i, scratch, split);
    for (int64_t position = positions.begin; position < positions.end; ++position) {
      for (int head = 0; head < rows.group; ++head) {
        MergeProbeState(rows.State(total, position, head), rows.State(split, position, head));
      }
    }
  }
  StoreOutput(rows, total);
}

// Tokens [first, last) of the batch, whichever sequences they belong to.
template <typename T>
void RunBlock(const ParallaxAttentionParams& params, const AttentionPlan& plan, int64_t first,
              int64_t last, int kv_head, AttentionScratch& scratch) {
  const std::span<const int32_t> start = params.query_start;
  int64_t sequence = std::upper_bound(start.begin(), start.end(), first) - start.begin() - 1;
  for (int64_t token = first; token < last; ++sequence) {
    const int64_t end = std::min<int64_t>(last, start[sequence + 1]);
    if (end > token && !plan.IsSplit(params, sequence)) {
      RunRows<T>(RowsOfSequence(params, sequence, token, static_cast<int>(end - token), kv_head),
                 scratch);
    }
    token = end;
  }
}

template <typename T>
void RunSplit(const ParallaxAttentionParams& params, const AttentionPlan& plan,
              const SplitTask& task, AttentionScratch& scratch) {
  const int64_t sequence = plan.split_sequences[task.index];
  const AttentionRows rows =
      RowsOfSequence(params, sequence, params.query_start[sequence], /*positions=*/1, task.kv_head);
  const ProbeStates states = {plan.SplitScalars(task), plan.SplitOutputs(task)};
  // A split behind the window or the end stays empty and merges as nothing.
  std::fill_n(states.scalars, rows.group, ProbeScalars{});
  GatherQueries(rows, scratch);
  FoldSplit<T>(rows, task.split, scratch, states);
}

inline void MergeSplits(const ParallaxAttentionParams& params, const AttentionPlan& plan,
                        int64_t index, int kv_head, AttentionScratch& scratch) {
  const int64_t sequence = plan.split_sequences[index];
  const AttentionRows rows = RowsOfSequence(params, sequence, params.query_start[sequence],
                                            /*positions=*/1, kv_head);
  const ProbeStates total{scratch.total_scalars, scratch.total_o};
  std::fill_n(total.scalars, rows.group, ProbeScalars{});
  for (int64_t split = 0; split < plan.splits_per_sequence; ++split) {
    const SplitTask task{index, kv_head, split};
    const ProbeStates states = {plan.SplitScalars(task), plan.SplitOutputs(task)};
    for (int head = 0; head < rows.group; ++head) {
      MergeProbeState(rows.State(total, 0, head), rows.State(states, 0, head));
    }
  }
  StoreOutput(rows, total);
}

template <typename T>
void AttentionOfType(const ParallaxAttentionParams& params, ThreadPool& pool) {
  const int64_t tokens = params.q.shape[0];
  const int heads = params.cache.num_kv_heads;
  const AttentionPlan plan = PlanAttention(params, pool.size());
  const int64_t split_tasks = plan.num_split_tasks();
  const int64_t block_tasks = plan.num_blocks * heads;
  const auto scratch_of = [&](int thread) -> AttentionScratch& {
    return *reinterpret_cast<AttentionScratch*>(pool.scratch(thread));
  };
  pool.ParallelFor(split_tasks + block_tasks, [&](int64_t index, int thread) {
    if (index < split_tasks) {
      return RunSplit<T>(params, plan, plan.TaskOfSplit(index), scratch_of(thread));
    }
    // The last rows of a prompt see the most keys: they go first, so that threads end together.
    const int64_t block = plan.num_blocks - 1 - (index - split_tasks) / heads;
    const int64_t first = block * plan.tokens_per_block;
    RunBlock<T>(params, plan, first, std::min(tokens, first + plan.tokens_per_block),
                static_cast<int>((index - split_tasks) % heads), scratch_of(thread));
  });
  pool.ParallelFor(plan.num_split_sequences() * heads, [&](int64_t index, int thread) {
    MergeSplits(params, plan, index / heads, static_cast<int>(index % heads), scratch_of(thread));
  });
}

void AttentionOfAnyType(const ParallaxAttentionParams& params, ThreadPool& pool) {
  switch (params.cache.dtype) {
    case DType::kFloat32:
      return AttentionOfType<float>(params, pool);
    case DType::kBFloat16:
      return AttentionOfType<hwy::bfloat16_t>(params, pool);
    case DType::kFloat16:
      return AttentionOfType<hwy::float16_t>(params, pool);
  }
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace parallax::kernels::cpu {

HWY_EXPORT(AttentionOfAnyType);

void ParallaxAttention(const ParallaxAttentionParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(AttentionOfAnyType)(params, pool);
}

}  // namespace parallax::kernels::cpu
#endif  // HWY_ONCE
