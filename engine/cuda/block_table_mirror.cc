#include "engine/cuda/block_table_mirror.h"

#include <algorithm>

namespace parallax {

TableArea BlockTableMirror::Update(const ForwardBatch& batch) {
  const int width = batch.block_table_stride;
  int first_row = 0;
  int end_row = 0;
  int first_column = width;
  int end_column = 0;
  for (int row = 0; row < batch.num_sequences(); ++row) {
    const auto pages = std::span(batch.block_tables).subspan(int64_t{row} * width, width);
    const auto held = memory_.subspan(int64_t{row} * stride_, width);
    const auto first = std::mismatch(pages.begin(), pages.end(), held.begin()).first;
    if (first == pages.end()) continue;
    const auto last = std::mismatch(pages.rbegin(), pages.rend(), held.rbegin()).first;
    if (end_row == 0) first_row = row;
    end_row = row + 1;
    first_column = std::min(first_column, static_cast<int>(first - pages.begin()));
    end_column = std::max(end_column, static_cast<int>(pages.rend() - last));
    std::copy(pages.begin(), pages.end(), held.begin());
  }
  if (end_row == 0) return {};
  return {.first_row = first_row,
          .rows = end_row - first_row,
          .first_column = first_column,
          .columns = end_column - first_column};
}

}  // namespace parallax
