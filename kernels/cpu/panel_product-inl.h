// The one small matrix product behind linear layers and both products of attention:
//   C[rows][columns] = A[rows][k] * B[k][columns]   (or += with accumulate)
// with A and C row-major fp32 and B in panels of 16 columns, [columns / 16][k][16].
//
// Every element of C is one chain of fused multiply-adds over k in order, from zero or from
// the old C. Tiles, panels side by side and blocks of k only decide which chains run at the
// same time, so the bits never depend on them.
#if defined(PARALLAX_KERNELS_CPU_PANEL_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PARALLAX_KERNELS_CPU_PANEL_PRODUCT_INL_H_
#undef PARALLAX_KERNELS_CPU_PANEL_PRODUCT_INL_H_
#else
#define PARALLAX_KERNELS_CPU_PANEL_PRODUCT_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/cache_control.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

// Rows of a register tile: with AVX2 12 accumulators and their operands fill the 16 registers,
// with AVX-512 one row takes half as many of twice as many. The scalar baseline has no
// registers to fill, only code to bloat.
inline constexpr int kTileRows = kLanes >= kPanelWidth ? 12 : kLanes > 1 ? 6 : 1;

// Panels that a tile of `rows` rows takes side by side, so that enough independent chains
// hide the latency of the multiply-add.
constexpr int TilePanels(int rows) {
  const int accumulators = rows * kVectors;
  if (kLanes == 1) return 1;
  return accumulators <= 2 ? 4 : accumulators <= 6 ? 2 : 1;
}

template <typename T>
struct PanelOperand {
  const T* data = nullptr;   // first panel
  int64_t panel_stride = 0;  // elements from one panel to the next
  int num_panels = 0;
  // Elements of 16 bits bring the element this far behind them into the cache as well: what the
  // caller needs next. The hardware's own prefetchers stop at page ends, which leaves a third of
  // the memory bandwidth unused while the multiply-adds keep the core busy.
  int64_t prefetch_distance = 0;

  PanelOperand Part(int first, int count) const {
    return {data + first * panel_stride, panel_stride, count, prefetch_distance};
  }
};

struct RowOperand {
  const float* data = nullptr;
  int64_t stride = 0;
};

struct ProductResult {
  float* data = nullptr;
  int64_t stride = 0;
  bool accumulate = false;
};

// B's first kPanels panels for exactly kRows rows.
template <int kRows, int kPanels, typename T>
HWY_NOINLINE void ProductTile(const RowOperand& a, int64_t k, const PanelOperand<T>& b_operand,
                              const ProductResult& c) {
  const T* HWY_RESTRICT const panel = b_operand.data;
  const int64_t panel_stride = b_operand.panel_stride;
  const int64_t prefetch_distance = b_operand.prefetch_distance;
  const FloatTag tag;
  FloatVector sum[kRows][kPanels][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int p = 0; p < kPanels; ++p) {
      for (int i = 0; i < kVectors; ++i) {
        sum[row][p][i] =
            c.accumulate ? hn::LoadU(tag, c.data + row * c.stride + p * kPanelWidth + i * kLanes)
                         : hn::Zero(tag);
      }
    }
  }
  const float* HWY_RESTRICT rows[kRows];
  for (int row = 0; row < kRows; ++row) rows[row] = a.data + row * a.stride;
  for (int64_t step = 0; step < k; ++step) {
    FloatVector b[kPanels][kVectors];
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (sizeof(T) == 2) {
        hwy::Prefetch(panel + p * panel_stride + step * kPanelWidth + prefetch_distance);
      }
      for (int i = 0; i < kVectors; ++i) {
        b[p][i] = LoadAsFloat(panel + p * panel_stride + step * kPanelWidth + i * kLanes);
      }
    }
    for (int row = 0; row < kRows; ++row) {
      const FloatVector a_broadcast = hn::Set(tag, rows[row][step]);
      for (int p = 0; p < kPanels; ++p) {
        for (int i = 0; i < kVectors; ++i) {
          sum[row][p][i] = hn::MulAdd(a_broadcast, b[p][i], sum[row][p][i]);
        }
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int p = 0; p < kPanels; ++p) {
      for (int i = 0; i < kVectors; ++i) {
        hn::StoreU(sum[row][p][i], tag, c.data + row * c.stride + p * kPanelWidth + i * kLanes);
      }
    }
  }
}

// All panels for exactly kRows rows.
template <int kRows, typename T>
void ProductRows(const RowOperand& a, int64_t k, const PanelOperand<T>& b, const ProductResult& c) {
  constexpr int kPanels = TilePanels(kRows);
  int p = 0;
  for (; p + kPanels <= b.num_panels; p += kPanels) {
    ProductTile<kRows, kPanels>(a, k, b.Part(p, kPanels),
                                {c.data + p * kPanelWidth, c.stride, c.accumulate});
  }
  for (; p < b.num_panels; ++p) {
    ProductTile<kRows, 1>(a, k, b.Part(p, 1), {c.data + p * kPanelWidth, c.stride, c.accumulate});
  }
}

template <typename T, int kRows = kTileRows>
void ProductUpToTileRows(int rows, const RowOperand& a, int64_t k, const PanelOperand<T>& b,
                         const ProductResult& c) {
  if (rows == kRows) {
    ProductRows<kRows>(a, k, b, c);
  } else if constexpr (kRows > 1) {
    ProductUpToTileRows<T, kRows - 1>(rows, a, k, b, c);
  }
}

// Any number of rows, cut evenly into tiles.
template <typename T>
void PanelProduct(int rows, const RowOperand& a, int64_t k, const PanelOperand<T>& b,
                  const ProductResult& c) {
  if (rows == 0) return;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  // Panel by panel, so that one stays in the first-level cache while all rows pass it.
  const int panels_at_once = tiles == 1 ? b.num_panels : 1;
  for (int p = 0; p < b.num_panels; p += panels_at_once) {
    const PanelOperand<T> part = b.Part(p, panels_at_once);
    for (int tile = 0; tile < tiles; ++tile) {
      const int begin = rows * tile / tiles;
      const int end = rows * (tile + 1) / tiles;
      ProductUpToTileRows<T>(end - begin, {a.data + begin * a.stride, a.stride}, k, part,
                             {c.data + begin * c.stride + p * kPanelWidth, c.stride, c.accumulate});
    }
  }
}

// Widens `size` elements, a multiple of 16, to fp32.
template <typename T>
void Widen(const T* HWY_RESTRICT from, int64_t size, float* HWY_RESTRICT to) {
  for (int64_t i = 0; i < size; i += kPanelWidth) StoreGroup(LoadGroup(from + i), to + i);
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // PARALLAX_KERNELS_CPU_PANEL_PRODUCT_INL_H_
