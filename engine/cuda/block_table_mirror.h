// What the device holds of the block tables, as known to the host, so that a step sends only what
// is new: a decode step adds a page to a sequence in 64 steps.
//
// Thread safety: one thread; plain memory.
#ifndef PARALLAX_ENGINE_CUDA_BLOCK_TABLE_MIRROR_H_
#define PARALLAX_ENGINE_CUDA_BLOCK_TABLE_MIRROR_H_

#include <cstdint>
#include <span>

#include "engine/runner/forward_batch.h"

namespace parallax {

/// A rectangle of the tables; empty when `rows` is 0.
struct TableArea {
  int first_row = 0;
  int rows = 0;
  int first_column = 0;
  int columns = 0;

  bool operator==(const TableArea&) const = default;
};

class BlockTableMirror {
 public:
  BlockTableMirror() = default;
  /// `memory`: rows of `stride` pages, all 0, as the device's are; it outlives the mirror.
  BlockTableMirror(std::span<int32_t> memory, int stride) : memory_(memory), stride_(stride) {}

  /// Takes over the batch's tables, row by sequence, and says within which rectangle they differ
  /// from what was there. REQUIRES: no more sequences than rows, and a stride of at most `stride`.
  TableArea Update(const ForwardBatch& batch);

  int stride() const { return stride_; }
  const int32_t* at(int row, int column) const { return &memory_[row * stride_ + column]; }

 private:
  std::span<int32_t> memory_;
  int stride_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_BLOCK_TABLE_MIRROR_H_
