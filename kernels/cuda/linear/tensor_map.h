// Tensor maps: what the copy engine must know of a matrix to bring boxes of it, 64 columns wide,
// to shared memory with the 128-byte swizzle.
//
// The encoder belongs to the driver and is asked of it at run time: nothing links against libcuda.
//
// Thread safety: any thread. Costs under a microsecond; nothing is allocated. Errors: KernelError.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_MAP_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_MAP_H_

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace parallax::kernels::cuda {

// Boxes of 64 columns by box_rows rows at (column, row). REQUIRES: `data` 16-byte aligned,
// row_stride (in elements) a multiple of 8, box_rows <= 256.
CUtensorMap MatrixMap(const __nv_bfloat16* data, int columns, int rows, int64_t row_stride,
                      int box_rows, CUtensorMapL2promotion promotion);

// Of a contiguous matrix [2 * half_rows, columns] whose halves belong together row by row. A box at
// (column, 0, 0, group) has 64 columns of box_rows rows: 8 rows of the first half from 8 * group
// on, the same 8 of the second half, the next 8 of the first, and so on. REQUIRES: half_rows and
// columns multiples of 8, box_rows of 16.
CUtensorMap InterleavedHalvesMap(const __nv_bfloat16* data, int columns, int half_rows,
                                 int box_rows);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TENSOR_MAP_H_
