#include "kernels/check.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/programmatic_launch.cuh"
#include "kernels/cuda/row_ops/row_checks.h"
#include "kernels/cuda/row_ops/vectors.cuh"

namespace parallax::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// Rows to read, by index.
struct RowIndices {
  const int32_t* indices;
  const int32_t* slot_tokens;  // index -1 - s stands for slot_tokens[s]
  int32_t num_slots;
  int32_t num_rows;  // of the table
};

// The row to read, or -1 for none.
__device__ int ResolveRow(const RowIndices& rows, int64_t i) {
  int row = rows.indices[i];
  if (row < 0) {
    const int slot = -1 - row;
    row = slot < rows.num_slots ? rows.slot_tokens[slot] : -1;
  }
  return row < rows.num_rows ? row : -1;
}

// Grid: [rows, column blocks].
template <typename Out>
__global__ void __launch_bounds__(kThreads)
    GatherKernel(const __nv_bfloat16* table, int64_t table_stride, RowIndices rows, Out* out,
                 int64_t out_stride, int width) {
  LetNextKernelStart();
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kVector;
  if (column >= width) return;
  WaitForPrecedingKernel();
  const int row = ResolveRow(rows, blockIdx.x);
  const Vector x = row < 0 ? Vector{} : LoadVector(table + row * table_stride + column);
  StoreVector(x, out + blockIdx.x * out_stride + column);
}

template <typename Out>
void Gather(const char* op, const ConstTensorView& table, const RowIndices& rows,
            const TensorView& out, const Stream& stream) {
  CheckVectorRows(op, "out", out);
  const int64_t width = out.shape[1];
  if (out.shape[0] == 0 || width == 0) return;
  const dim3 grid(static_cast<unsigned>(out.shape[0]),
                  static_cast<unsigned>((width / kVector + kThreads - 1) / kThreads));
  LaunchEarly(op, GatherKernel<Out>, grid, kThreads, stream, table.as<__nv_bfloat16>(),
              table.strides[0], rows, out.as<Out>(), out.strides[0], static_cast<int>(width));
}

}  // namespace

void Embedding(const EmbeddingParams& params, const Stream& stream) {
  constexpr char kOp[] = "Embedding";
  const auto tokens = static_cast<int64_t>(params.ids.size());
  CheckTensor(kOp, "table", params.table, DType::kBFloat16, {kAnyExtent, kAnyExtent}, stream);
  CheckTensor(kOp, "out", params.out, DType::kFloat32, {tokens, params.table.shape[1]}, stream);
  CheckVectorRows(kOp, "table", params.table);
  const RowIndices rows = {.indices = params.ids.data(),
                           .slot_tokens = params.slot_tokens.data(),
                           .num_slots = static_cast<int32_t>(params.slot_tokens.size()),
                           .num_rows = static_cast<int32_t>(params.table.shape[0])};
  Gather<float>(kOp, params.table, rows, params.out, stream);
}

void GatherRows(const ConstTensorView& x, std::span<const int32_t> rows, const TensorView& out,
                const Stream& stream) {
  constexpr char kOp[] = "GatherRows";
  const auto count = static_cast<int64_t>(rows.size());
  CheckTensor(kOp, "x", x, DType::kBFloat16, {kAnyExtent, kAnyExtent}, stream);
  CheckTensor(kOp, "out", out, DType::kBFloat16, {count, x.shape[1]}, stream);
  CheckVectorRows(kOp, "x", x);
  const RowIndices indices = {.indices = rows.data(),
                              .slot_tokens = nullptr,
                              .num_slots = 0,
                              .num_rows = static_cast<int32_t>(x.shape[0])};
  Gather<__nv_bfloat16>(kOp, x, indices, out, stream);
}

}  // namespace parallax::kernels::cuda
