#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/panel_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace parallax::kernels::cpu::HWY_NAMESPACE {

// What one task computes: rows x panels of the output.
struct LinearTile {
  int64_t row_begin = 0;
  int rows = 0;
  int64_t panel_begin = 0;
  int panels = 0;
};

// Few rows: the weight is widened in registers on its way from memory. Where the rows need more
// than one register tile, a panel is taken in blocks that the later tiles find in the
// first-level cache; up to about eight tiles that is cheaper than storing the widened block.
inline constexpr int kMaxSkinnyRows = 8 * kTileRows;
inline constexpr int64_t kSkinnyBlockSteps = 512;
inline constexpr int64_t kPrefetchDistance = kSkinnyBlockSteps * kPanelWidth;  // the next block

template <typename T>
void SkinnyProduct(const LinearParams& params, const LinearTile& tile, float* result) {
  const int64_t num_inputs = params.weight->num_inputs();
  const int64_t panel_size = num_inputs * kPanelWidth;
  const int64_t stride = tile.panels * kPanelWidth;
  const T* weight = static_cast<const T*>(params.weight->data()) + tile.panel_begin * panel_size;
  const RowOperand x{params.x.as<float>() + tile.row_begin * params.x.strides[0],
                     params.x.strides[0]};
  if (tile.rows <= kTileRows) {
    PanelProduct<T>(tile.rows, x, num_inputs, {weight, panel_size, tile.panels, kPrefetchDistance},
                    {result, stride, /*accumulate=*/false});
    return;
  }
  for (int p = 0; p < tile.panels; ++p) {
    for (int64_t begin = 0; begin < num_inputs; begin += kSkinnyBlockSteps) {
      const int64_t steps = std::min(kSkinnyBlockSteps, num_inputs - begin);
      const T* block = weight + p * panel_size + begin * kPanelWidth;
      PanelProduct<T>(tile.rows, {x.data + begin, x.stride}, steps,
                      {block, panel_size, /*num_panels=*/1, kPrefetchDistance},
                      {result + p * kPanelWidth, stride, /*accumulate=*/begin > 0});
    }
  }
}

// Many rows: blocks of k, for which a slab of x lies in the second-level cache and one widened
// panel in the first. Between blocks the accumulators rest in `result`.
inline constexpr int kBlockSteps = 256;
inline constexpr int kMaxRows = 192;
inline constexpr int kMaxPanels = 8;
inline constexpr int64_t kSlabStride = kBlockSteps + kPanelWidth;  // no power of two: see sets

struct BlockedScratch {
  float result[kMaxRows * kMaxPanels * kPanelWidth];
  float slab[kMaxRows * kSlabStride];
  float panel[kBlockSteps * kPanelWidth];
};
static_assert(sizeof(BlockedScratch) <= ThreadPool::kScratchBytes);

template <typename T>
void BlockedProduct(const LinearParams& params, const LinearTile& tile, BlockedScratch& scratch) {
  const int64_t num_inputs = params.weight->num_inputs();
  const T* const weight = static_cast<const T*>(params.weight->data());
  const float* const x = params.x.as<float>() + tile.row_begin * params.x.strides[0];
  for (int64_t begin = 0; begin < num_inputs; begin += kBlockSteps) {
    const int64_t steps = std::min<int64_t>(kBlockSteps, num_inputs - begin);
    for (int row = 0; row < tile.rows; ++row) {
      std::memcpy(scratch.slab + row * kSlabStride, x + row * params.x.strides[0] + begin,
                  steps * sizeof(float));
    }
    for (int p = 0; p < tile.panels; ++p) {
      const T* panel = weight + ((tile.panel_begin + p) * num_inputs + begin) * kPanelWidth;
      Widen(panel, steps * kPanelWidth, scratch.panel);
      PanelProduct<float>(tile.rows, {scratch.slab, kSlabStride}, steps,
                          {scratch.panel, /*panel_stride=*/0, /*num_panels=*/1},
                          {scratch.result + p * kPanelWidth, tile.panels * kPanelWidth,
                           /*accumulate=*/begin > 0});
    }
  }
}

// Adds bias and old y where asked, and leaves out the padding of the last panel.
void StoreTile(const LinearParams& params, const LinearTile& tile, int64_t column_end,
               const float* result) {
  const int64_t first_column = tile.panel_begin * kPanelWidth;
  const int64_t columns = std::min<int64_t>(tile.panels * kPanelWidth, column_end - first_column);
  const float* const bias =
      params.bias.defined() ? params.bias.as<float>() + first_column : nullptr;
  for (int row = 0; row < tile.rows; ++row) {
    const float* const from = result + row * tile.panels * kPanelWidth;
    float* const to = params.y.as<float>() + (tile.row_begin + row) * params.y.strides[0] +
                      (first_column - params.column_begin);
    ForEachGroup(columns, [&](int64_t i, int count) {
      Group sum = LoadGroup(from + i);
      if (bias != nullptr) {
        const Group b = LoadGroupPart(bias + i, count);
        for (int v = 0; v < kVectors; ++v) sum.v[v] = hn::Add(sum.v[v], b.v[v]);
      }
      if (params.accumulate) {
        const Group old = LoadGroupPart(to + i, count);
        for (int v = 0; v < kVectors; ++v) sum.v[v] = hn::Add(sum.v[v], old.v[v]);
      }
      StoreGroupPart(sum, to + i, count);
    });
  }
}

template <typename T>
void RunTile(const LinearParams& params, const LinearTile& tile, int64_t column_end,
             std::byte* memory) {
  BlockedScratch& scratch = *reinterpret_cast<BlockedScratch*>(memory);
  if (tile.rows <= kMaxSkinnyRows) {
    SkinnyProduct<T>(params, tile, scratch.result);
  } else {
    BlockedProduct<T>(params, tile, scratch);
  }
  StoreTile(params, tile, column_end, scratch.result);
}

// Panels per task: as many as let a task read a good stretch of weight, but not so many that
// threads run out of tasks.
int PanelsPerTask(int64_t panels, int64_t row_chunks, size_t panel_bytes, int threads) {
  constexpr size_t kMinTaskBytes = size_t{32} << 10;
  constexpr int kTasksPerThread = 4;
  const int64_t wanted_tasks = std::max<int64_t>(1, threads * kTasksPerThread / row_chunks);
  const int64_t at_least = std::max<int64_t>(1, kMinTaskBytes / panel_bytes);
  const int64_t balanced = std::max<int64_t>(panels / wanted_tasks, at_least);
  return static_cast<int>(std::min<int64_t>(balanced, kMaxPanels));
}

template <typename T>
void LinearOfType(const LinearParams& params, int64_t column_end, ThreadPool& pool) {
  const int64_t rows = params.x.shape[0];
  if (rows == 0 || column_end == params.column_begin) return;
  const int64_t panel_begin = params.column_begin / kPanelWidth;
  const int64_t panel_end = (column_end + kPanelWidth - 1) / kPanelWidth;
  const int64_t row_chunks = (rows + kMaxRows - 1) / kMaxRows;
  const size_t panel_bytes = params.weight->num_inputs() * kPanelWidth * sizeof(T);
  const int panels_per_task =
      PanelsPerTask(panel_end - panel_begin, row_chunks, panel_bytes, pool.size());
  const int64_t panel_groups = (panel_end - panel_begin + panels_per_task - 1) / panels_per_task;
  pool.ParallelFor(panel_groups * row_chunks, [&](int64_t task, int thread) {
    const int64_t chunk = task / panel_groups;
    LinearTile tile;
    tile.row_begin = rows * chunk / row_chunks;
    tile.rows = static_cast<int>(rows * (chunk + 1) / row_chunks - tile.row_begin);
    tile.panel_begin = panel_begin + task % panel_groups * panels_per_task;
    tile.panels =
        static_cast<int>(std::min<int64_t>(panels_per_task, panel_end - tile.panel_begin));
    RunTile<T>(params, tile, column_end, pool.scratch(thread));
  });
}

void LinearOfAnyType(const LinearParams& params, int64_t column_end, ThreadPool& pool) {
  switch (params.weight->dtype()) {
    case DType::kFloat32:
      return LinearOfType<float>(params, column_end, pool);
    case DType::kBFloat16:
      return LinearOfType<hwy::bfloat16_t>(params, column_end, pool);
    case DType::kFloat16:
      return LinearOfType<hwy::float16_t>(params, column_end, pool);
  }
}

}  // namespace parallax::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace parallax::kernels::cpu {

HWY_EXPORT(LinearOfAnyType);

void Linear(const LinearParams& params, int64_t column_end, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(LinearOfAnyType)(params, column_end, pool);
}

}  // namespace parallax::kernels::cpu
#endif  // HWY_ONCE
