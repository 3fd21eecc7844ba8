// The CPU form of every op. Arguments have been checked by the op's dispatch file.
#ifndef PARALLAX_KERNELS_CPU_CPU_OPS_H_
#define PARALLAX_KERNELS_CPU_CPU_OPS_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"
#include "kernels/kv_cache_write.h"
#include "kernels/linear.h"
#include "kernels/logprobs.h"
#include "kernels/packed_weight.h"
#include "kernels/parallax_attention.h"
#include "kernels/rope.h"
#include "kernels/sampling.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cpu {

void PackPanels(std::span<const ConstTensorView> weights, void* panels, ThreadPool& pool);

void Linear(const LinearParams& params, int64_t column_end, ThreadPool& pool);

void Embedding(const ConstTensorView& table, std::span<const int32_t> ids, const TensorView& out,
               ThreadPool& pool);

// residual may be undefined: plain RMSNorm of x.
void AddRmsNorm(const ConstTensorView& x, const TensorView& residual, const ConstTensorView& weight,
                float epsilon, const TensorView& out, ThreadPool& pool);

void HeadNormRope(const HeadNormRopeParams& params, ThreadPool& pool);

void SiluAndMul(const ConstTensorView& gate_up, const TensorView& out, ThreadPool& pool);

void KvCacheWrite(const ConstTensorView& k, const ConstTensorView& v,
                  std::span<const int64_t> slot_mapping, const KvCacheView& cache,
                  ThreadPool& pool);

void CopyKvPages(std::span<const PageCopy> copies, std::span<const KvCacheView> layers,
                 ThreadPool& pool);

size_t ParallaxAttentionWorkspaceBytes(int group_size, int head_dim, int64_t max_context_len,
                                       const ThreadPool& pool);
void ParallaxAttention(const ParallaxAttentionParams& params, ThreadPool& pool);

void AccumulateLogprobs(const ConstTensorView& logits, int64_t column_begin, int64_t token_limit,
                        std::span<LogprobState> states, ThreadPool& pool);

size_t SampleWorkspaceBytes(int64_t vocab_size, const ThreadPool& pool);
void Sample(const SampleParams& params, ThreadPool& pool);

}  // namespace parallax::kernels::cpu

#endif  // PARALLAX_KERNELS_CPU_CPU_OPS_H_
