// The division of one attention call into tasks: which decode rows have their keys split over
// several tasks, where those tasks leave their probe states, and the size of row blocks.
//
// The plan decides who computes what, never how: results do not depend on it.
//
// Thread safety: immutable once made; refers to the call's workspace.
#ifndef PARALLAX_KERNELS_CPU_ATTENTION_PLAN_H_
#define PARALLAX_KERNELS_CPU_ATTENTION_PLAN_H_

#include <cstdint>
#include <span>

#include "kernels/parallax_attention.h"
#include "kernels/probe_state.h"

namespace parallax::kernels::cpu {

// One key split of one (sequence, KV head).
struct SplitTask {
  int64_t index = 0;  // into split_sequences
  int kv_head = 0;
  int64_t split = 0;
};

struct AttentionPlan {
  int64_t tokens_per_block = 1;
  int64_t num_blocks = 0;

  // Decode rows that see more keys than this are split.
  int64_t split_above_keys = 0;
  std::span<int32_t> split_sequences;
  int64_t splits_per_sequence = 0;  // of the longest of them
  int num_kv_heads = 0;
  int group = 1;
  int64_t output_floats = 0;        // o1 and o2 of one state
  ProbeScalars* scalars = nullptr;  // [split_sequences][kv_head][split][group]
  float* outputs = nullptr;         // [split_sequences][kv_head][split][group][output_floats]

  int64_t num_split_sequences() const { return static_cast<int64_t>(split_sequences.size()); }
  int64_t num_split_tasks() const {
    return num_split_sequences() * num_kv_heads * splits_per_sequence;
  }
  SplitTask TaskOfSplit(int64_t task) const {
    return {task / splits_per_sequence / num_kv_heads,
            static_cast<int>(task / splits_per_sequence % num_kv_heads),
            task % splits_per_sequence};
  }
  ProbeScalars* SplitScalars(const SplitTask& task) const {
    return scalars + StateIndex(task) * group;
  }
  float* SplitOutputs(const SplitTask& task) const {
    return outputs + StateIndex(task) * group * output_floats;
  }

  bool IsSplit(const ParallaxAttentionParams& params, int64_t sequence) const {
    return params.query_start[sequence + 1] - params.query_start[sequence] == 1 &&
           KeysOfDecodeRow(params, sequence) > split_above_keys;
  }

  static int64_t KeysOfDecodeRow(const ParallaxAttentionParams& params, int64_t sequence);

 private:
  int64_t StateIndex(const SplitTask& task) const {
    return (task.index * num_kv_heads + task.kv_head) * splits_per_sequence + task.split;
  }
};

// Throws KernelError where the plan needs more workspace than params offer.
AttentionPlan PlanAttention(const ParallaxAttentionParams& params, int threads);

}  // namespace parallax::kernels::cpu

#endif  // PARALLAX_KERNELS_CPU_ATTENTION_PLAN_H_
