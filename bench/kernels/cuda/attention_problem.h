// The inputs of one benchmark case on the GPU, and the check of an output against fp64.
//
// K and V lie in a pool of noise that all cases share; a case cuts it into pages, deals them to
// its sequences in random order, and does so several times over, so that launches can rotate
// over caches (see BenchCase::copies).
//
// Thread safety: none. Errors: KernelError.
#ifndef PARALLAX_BENCH_KERNELS_CUDA_ATTENTION_PROBLEM_H_
#define PARALLAX_BENCH_KERNELS_CUDA_ATTENTION_PROBLEM_H_

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bench/kernels/cuda/bench_case.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/paged_kv_cache.h"
#include "kernels/tensor_view.h"

namespace parallax::bench {

// `bytes` of noise for K and V.
class KvPool {
 public:
  explicit KvPool(size_t bytes);

  __nv_bfloat16* data() const { return buffer_.as<__nv_bfloat16>(); }
  size_t bytes() const { return buffer_.size(); }

 private:
  kernels::cuda::DeviceBuffer buffer_;
};

class AttentionProblem {
 public:
  // Throws where the case's K and V exceed the pool, which must outlive this.
  AttentionProblem(const BenchCase& bench_case, const KvPool& pool);

  int copies() const { return copies_; }
  int64_t max_blocks() const { return max_blocks_; }
  const kernels::cuda::PagedKvCache& cache() const { return cache_; }
  const int32_t* context_len() const { return context_len_.as<int32_t>(); }
  const int32_t* query_start() const { return query_start_.as<int32_t>(); }
  const int32_t* block_tables(int copy) const;

  kernels::ConstTensorView q() const;  // [tokens, query_heads, head_dim]
  kernels::ConstTensorView r() const;
  kernels::TensorView out() const;

  // Bytes of one copy's K and V as they lie in the pool, for a plain read of as many.
  const void* kv_copy(int copy) const;
  size_t kv_bytes() const { return case_.kv_bytes(); }

  // Largest error of a few sampled rows of out(), computed from copy `copy`, over the largest
  // element of the fp64 result.
  double MaxError(int copy, bool softmax) const;

 private:
  double RowError(int copy, int sequence, int row, int head, bool softmax) const;
  std::vector<float> HostKeys(int copy, int sequence, int kv_head, int keys, bool values) const;
  std::vector<float> HostRow(const kernels::cuda::DeviceBuffer& rows, int sequence, int row,
                             int head) const;
  int64_t tokens() const { return int64_t{case_.sequences()} * case_.new_tokens; }
  size_t row_bytes() const;  // of q, r or out
  kernels::TensorView View(const kernels::cuda::DeviceBuffer& buffer) const;

  BenchCase case_;
  kernels::cuda::PagedKvCache cache_;
  int copies_;
  int64_t max_blocks_;
  std::vector<int32_t> host_tables_;  // [copies, sequences, max_blocks]
  kernels::cuda::DeviceBuffer block_tables_;
  kernels::cuda::DeviceBuffer context_len_;
  kernels::cuda::DeviceBuffer query_start_;
  kernels::cuda::DeviceBuffer q_;
  kernels::cuda::DeviceBuffer r_;
  kernels::cuda::DeviceBuffer out_;
};

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_KERNELS_CUDA_ATTENTION_PROBLEM_H_
