// Gathers of rows on the GPU: of an embedding table by token id, and of hidden states by index.
//
// Ids and indices are read on the device, so that a captured graph can be replayed with others;
// one outside the table gives a row of zeros.
//
// Thread safety: as Stream. Errors: KernelError for shapes and dtypes.
#ifndef PARALLAX_KERNELS_CUDA_EMBEDDING_H_
#define PARALLAX_KERNELS_CUDA_EMBEDDING_H_

#include <cstdint>
#include <span>

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels::cuda {

struct EmbeddingParams {
  ConstTensorView table;         // [vocab, hidden] bfloat16; hidden a multiple of 8
  std::span<const int32_t> ids;  // [tokens], device memory; -1 - s means slot_tokens[s]
  // The token that each slot sampled last (kernels/cuda/sampling.h), device memory: with two
  // steps in flight the host does not know it yet. May be empty.
  std::span<const int32_t> slot_tokens;
  TensorView out;  // [tokens, hidden] float32
};

void Embedding(const EmbeddingParams& params, const Stream& stream);

// out[i] = x[rows[i]]. x: [tokens, hidden] bfloat16, hidden a multiple of 8; rows: device memory;
// out: [rows.size(), hidden] bfloat16.
void GatherRows(const ConstTensorView& x, std::span<const int32_t> rows, const TensorView& out,
                const Stream& stream);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_EMBEDDING_H_
