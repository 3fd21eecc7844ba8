// The TileLinear kernels: one for each number of warpgroups, width of a product and output.
//
// Thread safety: any thread.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_H_

#include "kernels/cuda/linear/tile_args.h"

namespace parallax::kernels::cuda {

using TileKernel = void (*)(TileArgs);

// Null where there is none. Each output's are compiled in a file of their own.
template <TileOutput kOutput>
TileKernel TileKernelFor(int warpgroups, int width);

extern template TileKernel TileKernelFor<TileOutput::kBFloat16>(int, int);
extern template TileKernel TileKernelFor<TileOutput::kFloat32>(int, int);
extern template TileKernel TileKernelFor<TileOutput::kSiluAndMul>(int, int);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_H_
