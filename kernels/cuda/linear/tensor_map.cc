#include "kernels/cuda/linear/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <string>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "TensorMap";
constexpr cuuint32_t kBoxColumns = 64;  // 128 bytes

using Encoder = PFN_cuTensorMapEncodeTiled_v12000;

Encoder FindEncoder() {
  constexpr unsigned kVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  CheckCuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion,
                                             cudaEnableDefault, &result),
            kOp, "driver entry point");
  if (result != cudaDriverEntryPointSuccess || function == nullptr) {
    ThrowKernelError(kOp, "driver", "has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<Encoder>(function);
}

// Strides are in bytes, of all dimensions but the first.
template <int kRank>
CUtensorMap Encode(const __nv_bfloat16* data, const cuuint64_t (&extents)[kRank],
                   const cuuint64_t (&strides)[kRank - 1], const cuuint32_t (&box)[kRank],
                   CUtensorMapL2promotion promotion) {
  static const Encoder encode = FindEncoder();
  cuuint32_t steps[kRank];
  for (cuuint32_t& step : steps) step = 1;
  CUtensorMap map;
  // The map only reads; the driver's signature serves writers as well.
  auto* const address = const_cast<__nv_bfloat16*>(data);
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, address, extents, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    ThrowKernelError(kOp, "tensor map", "refused by the driver, error " + std::to_string(status));
  }
  return map;
}

}  // namespace

CUtensorMap MatrixMap(const __nv_bfloat16* data, int columns, int rows, int64_t row_stride,
                      int box_rows, CUtensorMapL2promotion promotion) {
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(row_stride) * sizeof(__nv_bfloat16)};
  const cuuint32_t box[] = {kBoxColumns, static_cast<cuuint32_t>(box_rows)};
  return Encode<2>(data, extents, strides, box, promotion);
}

CUtensorMap InterleavedHalvesMap(const __nv_bfloat16* data, int columns, int half_rows,
                                 int box_rows) {
  const cuuint64_t row_bytes = static_cast<cuuint64_t>(columns) * sizeof(__nv_bfloat16);
  const cuuint64_t half = half_rows;
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(columns), 8, 2, half / 8};
  const cuuint64_t strides[] = {row_bytes, half * row_bytes, 8 * row_bytes};
  const cuuint32_t box[] = {kBoxColumns, 8, 2, static_cast<cuuint32_t>(box_rows) / 16};
  return Encode<4>(data, extents, strides, box, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
}

}  // namespace parallax::kernels::cuda
