// Gathers rows of an embedding table.
//
// Thread safety: as Stream. Errors: KernelError for shapes, dtypes, ids out of range.
#ifndef PARALLAX_KERNELS_EMBEDDING_H_
#define PARALLAX_KERNELS_EMBEDDING_H_

#include <cstdint>
#include <span>

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

// table: [vocab, hidden] of any dtype; ids: [tokens]; out: [tokens, hidden] float32.
void Embedding(const ConstTensorView& table, std::span<const int32_t> ids, const TensorView& out,
               const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_EMBEDDING_H_
