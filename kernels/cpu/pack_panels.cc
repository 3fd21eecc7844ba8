#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/cpu/cpu_ops.h"

namespace parallax::kernels::cpu {
namespace {

// Finds row `row` of the weights as if they stood below each other; null behind the last.
const std::byte* FindRow(std::span<const ConstTensorView> weights, int64_t row) {
  for (const ConstTensorView& weight : weights) {
    if (row < weight.shape[0]) {
      const int64_t offset =
          row * weight.strides[0] * static_cast<int64_t>(DTypeSize(weight.dtype));
      return weight.as<std::byte>() + offset;
    }
    row -= weight.shape[0];
  }
  return nullptr;
}

template <typename Bits>
void PackPanel(std::span<const ConstTensorView> weights, int64_t panel, Bits* to) {
  constexpr int64_t kStepsAtOnce = 512;  // the rows' reads and the panel's writes fit a cache
  const int64_t num_inputs = weights[0].shape[1];
  const Bits* rows[kPanelWidth];
  for (int column = 0; column < kPanelWidth; ++column) {
    rows[column] = reinterpret_cast<const Bits*>(FindRow(weights, panel * kPanelWidth + column));
  }
  for (int64_t begin = 0; begin < num_inputs; begin += kStepsAtOnce) {
    const int64_t end = std::min(begin + kStepsAtOnce, num_inputs);
    for (int column = 0; column < kPanelWidth; ++column) {
      const Bits* const row = rows[column];
      for (int64_t k = begin; k < end; ++k) {
        to[k * kPanelWidth + column] = row == nullptr ? Bits{0} : row[k];
      }
    }
  }
}

template <typename Bits>
void PackAll(std::span<const ConstTensorView> weights, Bits* to, ThreadPool& pool) {
  int64_t rows = 0;
  for (const ConstTensorView& weight : weights) rows += weight.shape[0];
  const int64_t panel_size = kPanelWidth * weights[0].shape[1];
  pool.ParallelFor((rows + kPanelWidth - 1) / kPanelWidth, [&](int64_t panel, int /*thread*/) {
    PackPanel(weights, panel, to + panel * panel_size);
  });
}

}  // namespace

void PackPanels(std::span<const ConstTensorView> weights, void* panels, ThreadPool& pool) {
  if (DTypeSize(weights[0].dtype) == sizeof(uint32_t)) {
    PackAll(weights, static_cast<uint32_t*>(panels), pool);
  } else {
    PackAll(weights, static_cast<uint16_t*>(panels), pool);
  }
}

}  // namespace parallax::kernels::cpu
