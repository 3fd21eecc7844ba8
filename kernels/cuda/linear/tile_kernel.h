// The TileLinear kernels: one for each width of a product and output.
//
// Thread safety: any thread.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_H_

#include "kernels/cuda/linear/tile_args.h"

namespace parallax::kernels::cuda {

using TileKernel = void (*)(TileArgs);

// Null where there is none. Each output's are compiled in a file of their own.
template <TileOutput kOutput>
TileKernel TileKernelFor(int width);

extern template TileKernel TileKernelFor<TileOutput::kBFloat16>(int);
extern template TileKernel TileKernelFor<TileOutput::kFloat32>(int);
extern template TileKernel TileKernelFor<TileOutput::kSiluAndMul>(int);

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_TILE_KERNEL_H_
